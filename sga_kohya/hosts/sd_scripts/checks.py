"""What cannot work is said before anything is imported or loaded: data that are not there, options that exclude SGA.

`problems` finds all of it; the doors stop at the first, `python -m sga_kohya.doctor` shows every one.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.hosts.sd_scripts.captions import caption_problems, prompt_problems
from sga_kohya.hosts.sd_scripts.folders import find_folders
from sga_kohya.hosts.sd_scripts.masks import mask_problems
from sga_kohya.tuples import states

# Host options under which an optimizer step is not where accumulate() says it is.
_BREAKS_TUPLES = {
    "fused_backward_pass": "it steps the optimizer inside backward, before the tuple's other slices were seen",
    "fused_optimizer_groups": "it steps the optimizers inside backward, before the tuple's other slices were seen",
    "blockwise_fused_optimizers": "it steps the optimizers inside backward, before the tuple's other slices were seen",
    "skip_until_initial_step": "it skips batches, which would break tuple steps apart; --resume alone works",
}
_SWITCHED_OFF = (None, False, "false")


def check(options: Mapping[str, Any], config: SgaConfig) -> None:
    """Raises SgaError for the first problem. options: command line over TOML, see options.read_options."""
    problem = next(problems(options, config), None)
    if problem is not None:
        raise SgaError(problem)


def problems(options: Mapping[str, Any], config: SgaConfig) -> Iterator[str]:
    """Every reason for which the run cannot work, with its remedy. With SGA off everything is the host's affair."""
    if not config.enabled:
        return
    if config.tuples or config.probe_every:
        yield from _tuple_problems(options, config)
    if _wants_fp8(options) and wants_dora(options):
        yield (
            "fp8_base excludes LyCORIS DoRA (dora_wd=True): DoRA needs the norm of the base weight, and torch has no "
            "such kernel for Float8. Leave out one of the two"
        )
    yield from prompt_problems(options)
    yield from data_problems(options)
    if options.get("resume") and options.get("resume_from_huggingface") in _SWITCHED_OFF:
        found = states.problem(Path(str(options["resume"])))
        if found is not None:
            yield f"--resume {found}"


def _tuple_problems(options: Mapping[str, Any], config: SgaConfig) -> Iterator[str]:
    """What needs to know better than we when the optimizer steps and processes synchronise."""
    wish, remedy = ("tuples", "set --sga_tuples=false") if config.tuples else ("the probe", "leave out sga_probe_every")
    for name, reason in _BREAKS_TUPLES.items():
        if options.get(name) not in _SWITCHED_OFF:
            yield f"--{name} excludes {wish}: {reason}. Leave it out, or {remedy}"
    if wants_static_graph(options) and _processes() > 1:
        yield (
            f"--ddp_static_graph excludes {wish} with several processes: torch's static graph cannot leave out "
            "synchronising, as sub-batches need. Leave it out (--ddp_gradient_as_bucket_view may stay), or "
            f"{remedy}"
        )


def wants_static_graph(options: Mapping[str, Any]) -> bool:
    """Whether DDP is to assume one graph. A network trainer never runs DDP's forward pass, where it would count."""
    return options.get("ddp_static_graph") not in _SWITCHED_OFF and not options.get("network_module")


def _processes() -> int:
    """Of this run, as torchrun or an MPI launcher tells each of them."""
    names = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    return max(int(os.environ.get(name, "1")) for name in names)


def network_args(options: Mapping[str, Any]) -> dict[str, str]:
    """--network_args as a mapping, in lower case and without spaces."""
    words = options.get("network_args") or []
    words = [words] if isinstance(words, str) else words
    pairs = (str(word).replace(" ", "").lower().partition("=") for word in words)
    return {name: value for name, _, value in pairs}


def wants_dora(options: Mapping[str, Any]) -> bool:
    """Whether LyCORIS is asked for weight decomposition."""
    return network_args(options).get("dora_wd") in ("true", "1")


def _wants_fp8(options: Mapping[str, Any]) -> bool:
    return any(options.get(name) not in _SWITCHED_OFF for name in ("fp8_base", "fp8_base_unet"))


def data_problems(options: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the training data as files."""
    if options.get("dataset_class"):
        return
    if isinstance(options.get("datasets"), list):
        yield (
            f"--config_file {options.get('config_file')}: this describes a dataset ([[datasets]] is in it): give it as "
            "--dataset_config, and the TOML with the settings of the training as --config_file"
        )
        return
    if not any(options.get(name) for name in ("dataset_config", "train_data_dir", "in_json")):
        yield (
            "no training data: give --dataset_config dataset.toml or --train_data_dir FOLDER; "
            "`python -m sga_kohya.hsd PHOTOS OUT` makes both from a folder of photos"
        )
        return
    try:
        folders = find_folders(options)
    except SgaError as error:
        yield str(error)
        return
    for folder in folders:
        if not folder.path.is_dir():
            yield f"{folder.origin} {folder.path}: {folder.path.absolute()} does not exist; correct the path"
        yield from caption_problems(folder)
        yield from mask_problems(folder, options)
