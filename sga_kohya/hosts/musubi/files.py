"""The files that a run names, looked at before torch is imported: what is not there is refused with a remedy."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.kit.toml_file import read_toml

_MODELS = ("dit", "dit_high_noise", "network_weights", "base_weights")
_WRITTEN_BY = "`python -m sga_kohya.hsd PHOTOS OUT` writes OUT/dataset_musubi.toml"


def check_files(options: Mapping[str, Any]) -> None:
    """Raises SgaError for datasets and models that are not there. options: see options.read_options."""
    name = options.get("dataset_config")
    if not isinstance(name, str):
        raise SgaError(f"no --dataset_config: name musubi-tuner's dataset TOML; {_WRITTEN_BY}")
    path = Path(name).expanduser()
    if path.suffix.lower() == ".json":
        if not path.is_file():
            raise SgaError(f"--dataset_config {name}: {path.absolute()} does not exist; correct the path")
    else:
        _check_datasets(name, read_toml(path, f"--dataset_config {name}", "musubi-tuner"))
    if "sga_show_timesteps" not in options:
        for option, file in _models(options):
            if not Path(file).exists():
                raise SgaError(f"--{option} {file}: there is no such file; correct the path")


def _check_datasets(name: str, tables: Mapping[str, Any]) -> None:
    datasets = tables.get("datasets")
    if not isinstance(datasets, list) or not datasets:
        raise SgaError(f"--dataset_config {name}: it has no [[datasets]]; {_WRITTEN_BY}")
    if any("subsets" in dataset for dataset in datasets):
        raise SgaError(
            f"--dataset_config {name}: this is a dataset TOML of sd-scripts, and musubi-tuner's has other keys; "
            f"{_WRITTEN_BY} beside the other"
        )


def _models(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for option in _MODELS:
        given = options.get(option)
        for file in given if isinstance(given, list) else [given]:
            if isinstance(file, str):
                yield option, file
