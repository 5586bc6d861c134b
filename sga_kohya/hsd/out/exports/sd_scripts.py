"""dataset.toml: the exported folders as sd-scripts reads them with --dataset_config."""

from collections.abc import Callable
from pathlib import Path

from sga_kohya.hsd.cut.sizes import BUCKET_STEPS
from sga_kohya.hsd.out.exports.export import HEADER, Dataset, Export, Level, quoted
from sga_kohya.kit.cli import shell_word
from sga_kohya.kit.sealed import sealed

MASKED = " --masked_loss"


def dataset_toml(dataset: Dataset) -> str:
    return dataset_with(dataset, lambda level: f"]\ngranularity = {quoted(level.name)}\n")


def dataset_with(dataset: Dataset, attributes: Callable[[Level], str]) -> str:
    """attributes: of a level, the rest of the table that begins `[datasets.subsets.custom_attributes`.

    A table of its own: toml 0.10.2 makes an inline one into an object that data loader workers cannot pickle. Levels
    that have no slices are left out, with a comment.
    """
    table = "\n[datasets.subsets.custom_attributes"
    subsets = (
        f"{_subset(level)}{table}{attributes(level)}" if level.sizes else _absent(level) for level in dataset.levels
    )
    return sealed(HEADER, "\n".join([_head(dataset), *subsets]))


def _head(dataset: Dataset) -> str:
    sides = [side for size in dataset.targets for side in size]
    return f"""
[[datasets]]
resolution = {dataset.resolution}
batch_size = {dataset.batch_size}
enable_bucket = true
# Every file has a size that is its own bucket: nothing is resized or cropped again.
bucket_no_upscale = true
bucket_reso_steps = {BUCKET_STEPS}
min_bucket_reso = {min(sides)}
max_bucket_reso = {max(sides)}
"""


def _subset(level: Level) -> str:
    return f"""[[datasets.subsets]]
image_dir = {quoted(level.folder)}
num_repeats = {level.repeats}
caption_extension = ".txt"
{mask_lines(level.alpha, level.masks)}"""


def mask_lines(inside: bool, beside: Path | None) -> str:
    """Masks inside the pictures as a DreamBooth dataset takes them, those beside as a ControlNet dataset does."""
    told = "# What is black in a mask, or transparent, does not count with masked_loss in the training settings.\n"
    if beside:
        return f"{told}conditioning_data_dir = {quoted(beside)}\n"
    return f"{told}alpha_mask = true\n" if inside else ""


def _absent(level: Level) -> str:
    return f"# No {level.name} slices: sd-scripts would warn of the empty folder {level.folder.name}.\n"


def _use(file: Path, masked: bool) -> list[str]:
    train = "accelerate launch -m sga_kohya.flux_train_network --config_file your.toml"
    return [f"{train} --dataset_config {shell_word(file)}" + MASKED * masked]


SD_SCRIPTS = Export(
    name="sd-scripts",
    trainer="kohya-ss sd-scripts, with this package",
    file="dataset.toml",
    write=dataset_toml,
    use=_use,
    gets="all of SGA",
    always=True,
)
