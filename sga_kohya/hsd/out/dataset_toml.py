"""dataset.toml: the exported folders as sd-scripts reads them with --dataset_config."""

import json
from collections.abc import Container
from pathlib import Path

from sga_kohya.hsd.cut.sizes import BUCKET_STEPS
from sga_kohya.hsd.masks.sources import NONE, are_beside
from sga_kohya.hsd.out.manifest import mask_folder
from sga_kohya.hsd.settings.config import HsdConfig, LevelConfig
from sga_kohya.kit.sealed import sealed

DATASET_TOML = "dataset.toml"
HEADER = "# Written by sga_kohya.hsd and rewritten by its next run here: edit a copy."


def dataset_toml(config: HsdConfig, out: Path, present: Container[str]) -> str:
    """out: absolute. present: names of the levels that have slices; the others are left out, with a comment."""
    subsets = [
        _subset(level, out, config.masks) if level.name in present else _absent(level) for level in config.levels
    ]
    return sealed(HEADER, "\n".join([_dataset(config), *subsets]))


def _dataset(config: HsdConfig) -> str:
    levels = [(own, level) for own in config.everywhere for level in own.levels]
    sides = [side for own, level in levels for size in level.targets(own.min_size) for side in size]
    return f"""
[[datasets]]
resolution = {config.resolution}
batch_size = {config.batch_size}
enable_bucket = true
# Every file has a size that is its own bucket: nothing is resized or cropped again.
bucket_no_upscale = true
bucket_reso_steps = {BUCKET_STEPS}
min_bucket_reso = {min(sides)}
max_bucket_reso = {max(sides)}
"""


def _subset(level: LevelConfig, out: Path, masks: str) -> str:
    # A table of its own: toml 0.10.2 makes an inline table into an object that data loader workers cannot pickle.
    return f"""[[datasets.subsets]]
image_dir = {quoted(str(out / level.folder))}
num_repeats = {level.repeats}
caption_extension = ".txt"
{_masks(level, out, masks)}
[datasets.subsets.custom_attributes]
granularity = {quoted(level.name)}
"""


def _masks(level: LevelConfig, out: Path, masks: str) -> str:
    """Masks in the slices as a DreamBooth dataset takes them, those beside as a ControlNet dataset does."""
    if masks == NONE:
        return ""
    told = (
        "# What is black in a mask, or transparent, does not count with masked_loss = true in the training settings.\n"
    )
    if are_beside(masks):
        return f"{told}conditioning_data_dir = {quoted(str(out / mask_folder(level.folder)))}\n"
    return f"{told}alpha_mask = true\n"


def _absent(level: LevelConfig) -> str:
    return f"# No {level.name} slices: sd-scripts would warn of the empty folder {level.folder}.\n"


def quoted(text: str) -> str:
    """A TOML basic string. JSON's escapes are a subset of TOML's."""
    return json.dumps(text, ensure_ascii=False)
