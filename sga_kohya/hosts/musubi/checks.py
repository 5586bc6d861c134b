"""What cannot work is said before anything is imported or loaded: files that are not there, options that exclude SGA.

`problems` finds all of it; the door stops at the first, `python -m sga_kohya.doctor` shows every one.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.hosts.checks import (
    STEPS_INSIDE_BACKWARD,
    SWITCHED_OFF,
    dora_advice,
    first,
    fp8_problems,
    not_named,
    not_there,
    resume_problems,
    static_graph_advice,
    tuple_problems,
)
from sga_kohya.hosts.musubi.families import HOST, SCRIPTS, trains_adapter, with_videos
from sga_kohya.hosts.prompts import prompt_problems
from sga_kohya.kit.toml_file import read_toml
from sga_kohya.words import LINEAR

MODELS = ("dit", "dit_high_noise", "network_weights", "base_weights")
"""Options that name files which training loads."""
_BREAKS_TUPLES = {"fused_backward_pass": STEPS_INSIDE_BACKWARD}
_ATTENTION = ("sdpa", "flash_attn", "flash3", "xformers", "sage_attn")  # with the last it says by itself what is wrong
_TORCHS_UNASKED = ("hidream_o1_train",)
"""Scripts that need no option of these: they take torch's attention, or flash_attn."""
_VIDEOS = ("video_directory", "video_jsonl_file")
_WRITTEN_BY = "`python -m sga_kohya.hsd PHOTOS OUT` writes OUT/dataset_musubi.toml"


def check(script: str, options: Mapping[str, Any], config: SgaConfig) -> None:
    """Raises SgaError for the first problem. options: command line over TOML, see options.read_options."""
    first(problems(script, options, config))


def problems(script: str, options: Mapping[str, Any], config: SgaConfig) -> Iterator[str]:
    """Every reason for which the run cannot work, with its remedy. With SGA off everything is the host's affair."""
    if not config.enabled:
        return
    yield from tuple_problems(options, config, _BREAKS_TUPLES)
    if config.path != LINEAR:
        yield f"sga_path={config.path} is for sd-scripts: {HOST}'s samplers walk straight. Leave it out"
    if config.flow_snr_weight:
        yield f"sga_flow_snr_weight weights each sample, and {HOST} averages its loss: leave it out"
    yield from fp8_problems(options)
    yield from prompt_problems(options, HOST)
    yield from data_problems(options)
    yield from _video_problems(script, options)
    if "sga_show_timesteps" not in options:
        yield from _model_problems(script, options)
    yield from resume_problems(options)


def advice(options: Mapping[str, Any], config: SgaConfig) -> Iterator[str]:
    """Every warning about a run's settings. options: by name, as read_options gives them, or vars(args)."""
    yield from dora_advice(options)
    yield from static_graph_advice(options)
    if options.get("offload_inactive_dit") not in SWITCHED_OFF and config.plans_tuples:
        yield (
            "with offload_inactive_dit each change between the models of high and low noise moves a whole model, and "
            "sub-batches of one step may need both"
        )


def data_problems(options: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the dataset's description."""
    name = options.get("dataset_config")
    if not isinstance(name, str):
        yield f"no --dataset_config: name {HOST}'s dataset TOML; {_WRITTEN_BY}"
        return
    what = f"--dataset_config {name}"
    try:
        datasets = _datasets(name, what)
    except SgaError as error:
        yield str(error)
        return
    if not datasets:
        yield f"{what}: it has no [[datasets]]; {_WRITTEN_BY}"
    elif any("subsets" in dataset for dataset in datasets):
        yield (
            f"{what}: this is a dataset TOML of sd-scripts, and {HOST}'s has other keys; {_WRITTEN_BY} beside the other"
        )


def _datasets(name: str, what: str) -> list[Mapping[str, Any]]:
    """The tables of a --dataset_config, TOML or JSON. Raises SgaError where it cannot be read."""
    path = Path(name).expanduser()
    read = _read_json if path.suffix.lower() == ".json" else read_toml
    datasets = read(path, what, HOST).get("datasets")
    return [one for one in datasets if isinstance(one, dict)] if isinstance(datasets, list) else []


def _read_json(path: Path, what: str, host: str) -> dict[str, Any]:
    if not path.is_file():
        raise SgaError(f"{what}: {path.absolute()} does not exist; correct the path")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SgaError(f"{what}: {host} cannot read it as JSON ({error}); correct it") from None
    return found if isinstance(found, dict) else {}


def _video_problems(script: str, options: Mapping[str, Any]) -> Iterator[str]:
    """Clips for a family of images, on which the host ends with `Unsupported architecture`."""
    name, family = str(options.get("dataset_config")), SCRIPTS[script]
    if family.videos:
        return
    with contextlib.suppress(SgaError):  # said by data_problems
        found = (one[key] for one in _datasets(name, name) for key in _VIDEOS if key in one)
        for place in found:
            yield (
                f"--dataset_config {name}: {place} holds clips, and {family.name} trains on images alone: leave that "
                f"dataset out, or train with one of {with_videos()}"
            )


def _model_problems(script: str, options: Mapping[str, Any]) -> Iterator[str]:
    """What ends the host when it has read the data, or loaded the model."""
    for option in MODELS:
        given = options.get(option)
        for file in given if isinstance(given, list) else [given]:
            if isinstance(file, str) and not Path(file).exists():
                yield not_there(option, file)
    if not options.get("dit"):
        yield not_named("dit", script)
    if script not in _TORCHS_UNASKED and all(options.get(name) in SWITCHED_OFF for name in _ATTENTION):
        yield "no attention is chosen, without which the model is not loaded: set sdpa = true"
    if trains_adapter(script) and not options.get("network_module"):
        yield f"no --network_module: set network_module = {SCRIPTS[script].network}, or lycoris.kohya"
