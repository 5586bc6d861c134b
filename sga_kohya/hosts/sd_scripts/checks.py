"""What cannot work is said before anything is imported or loaded: data that are not there, options that exclude SGA.

`problems` finds all of it; the doors stop at the first, `python -m sga_kohya.doctor` shows every one.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.hosts.checks import STEPS_INSIDE_BACKWARD, first, fp8_problems, resume_problems, tuple_problems
from sga_kohya.hosts.prompts import prompt_problems
from sga_kohya.hosts.sd_scripts.captions import caption_problems
from sga_kohya.hosts.sd_scripts.folders import find_folders
from sga_kohya.hosts.sd_scripts.masks import mask_problems
from sga_kohya.options import HOST

# Host options under which an optimizer step is not where accumulate() says it is.
_BREAKS_TUPLES = {
    "fused_backward_pass": STEPS_INSIDE_BACKWARD,
    "fused_optimizer_groups": STEPS_INSIDE_BACKWARD,
    "blockwise_fused_optimizers": STEPS_INSIDE_BACKWARD,
    "skip_until_initial_step": "it skips batches, which would break tuple steps apart; --resume alone works",
}


def check(options: Mapping[str, Any], config: SgaConfig) -> None:
    """Raises SgaError for the first problem. options: command line over TOML, see options.read_options."""
    first(problems(options, config))


def problems(options: Mapping[str, Any], config: SgaConfig) -> Iterator[str]:
    """Every reason for which the run cannot work, with its remedy. With SGA off everything is the host's affair."""
    if not config.enabled:
        return
    yield from tuple_problems(options, config, _BREAKS_TUPLES)
    yield from fp8_problems(options)
    yield from prompt_problems(options, HOST)
    yield from data_problems(options)
    yield from resume_problems(options)


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
