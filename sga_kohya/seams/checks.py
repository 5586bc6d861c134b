"""What cannot work is said before anything is imported or loaded: data that are not there, options that exclude SGA."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import toml

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError

# Host options under which an optimizer step is not where accumulate() says it is.
_BREAKS_TUPLES = {
    "fused_backward_pass": "it steps the optimizer inside backward, before the tuple's other slices were seen",
    "blockwise_fused_optimizers": "it steps the optimizers inside backward, before the tuple's other slices were seen",
    "deepspeed": "its engine counts batches, not tuple steps",
    "skip_until_initial_step": "it skips batches, which would break tuple steps apart; --resume alone works",
}
_SWITCHED_OFF = (None, False, "false")


def check(options: Mapping[str, Any], config: SgaConfig) -> None:
    """Raises SgaError for the first problem. options: command line over TOML, see options.read_options.

    With SGA off everything is the host's affair.
    """
    if not config.enabled:
        return
    if config.tuples:
        for name, reason in _BREAKS_TUPLES.items():
            if options.get(name) not in _SWITCHED_OFF:
                raise SgaError(f"--{name} excludes tuples: {reason}. Leave it out, or set --sga_tuples=false")
    if _wants_fp8(options) and _wants_dora(options):
        raise SgaError(
            "fp8_base excludes LyCORIS DoRA (dora_wd=True): DoRA needs the norm of the base weight, and torch has no "
            "such kernel for Float8. Leave out one of the two"
        )
    _check_data(options)


def _wants_fp8(options: Mapping[str, Any]) -> bool:
    return any(options.get(name) not in _SWITCHED_OFF for name in ("fp8_base", "fp8_base_unet"))


def _wants_dora(options: Mapping[str, Any]) -> bool:
    arguments = options.get("network_args") or []
    arguments = [arguments] if isinstance(arguments, str) else arguments
    return any(str(a).replace(" ", "").lower() in ("dora_wd=true", "dora_wd=1") for a in arguments)


def _check_data(options: Mapping[str, Any]) -> None:
    if options.get("dataset_class"):
        return
    if not any(options.get(name) for name in ("dataset_config", "train_data_dir", "in_json")):
        raise SgaError(
            "no training data: give --dataset_config dataset.toml or --train_data_dir FOLDER; "
            "`python -m sga_kohya.hsd PHOTOS OUT` makes both from a folder of photos"
        )
    for name, folder in _image_folders(options):
        if not Path(folder).is_dir():
            raise SgaError(f"{name} {folder}: {Path(folder).absolute()} does not exist; correct the path")


def _image_folders(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    config = options.get("dataset_config")
    if not config:
        if options.get("train_data_dir"):
            yield "--train_data_dir", str(options["train_data_dir"])
        return
    path = Path(str(config))
    if not path.is_file():
        raise SgaError(f"--dataset_config {config}: {path.absolute()} does not exist; correct the path")
    if path.suffix.lower() != ".toml":
        return
    try:
        content = toml.loads(path.read_text(encoding="utf-8"))
    except (toml.TomlDecodeError, UnicodeDecodeError) as error:
        raise SgaError(f"--dataset_config {config}: not valid TOML: {error}") from None
    if not isinstance(content.get("datasets", []), list):
        raise SgaError(f"--dataset_config {config}: write [[datasets]] with two brackets, and [[datasets.subsets]]")
    for dataset in content.get("datasets", []):
        for subset in dataset.get("subsets", []):
            if "image_dir" in subset and "metadata_file" not in subset:
                yield f"{config}: image_dir", str(subset["image_dir"])
