"""dataset_stock.toml: for stock sd-scripts, whose `dev` moves noise levels by `custom_attributes.timestep_sampling`."""

from pathlib import Path

from sga_kohya.hsd.out.exports.export import Dataset, Export
from sga_kohya.hsd.out.exports.sd_scripts import MASKED, dataset_with
from sga_kohya.kit.cli import shell_word


def dataset_stock(dataset: Dataset) -> str:
    return dataset_with(dataset, lambda level: f".timestep_sampling]\noffset = {level.offset}\n")


def _use(file: Path, masked: bool) -> list[str]:
    train = "accelerate launch flux_train_network.py --config_file your.toml"
    return [f"{train} --dataset_config {shell_word(file)}" + MASKED * masked]


STOCK = Export(
    name="stock",
    trainer="kohya-ss sd-scripts dev, without this package",
    file="dataset_stock.toml",
    write=dataset_stock,
    use=_use,
    gets="noise levels by granularity of FLUX and Anima adapters, with timestep_sampling sigmoid, shift, flux_shift",
    loses="tuples and Eq. 6; other models, other modes and releases to v0.11.1 pass the offset over",
)
