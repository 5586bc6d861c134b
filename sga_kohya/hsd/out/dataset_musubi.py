"""dataset_musubi.toml: the exported folders as musubi-tuner reads them, and where it keeps its caches of them.

It trains on cache files alone and wants a folder of them for each dataset, so each level is a dataset of its own. The
granularity of a slice is that of the manifest, which the trainer finds beside the images.
"""

import math
import re
from collections.abc import Container, Sequence
from pathlib import Path

from sga_kohya.hsd.masks.sources import NONE
from sga_kohya.hsd.out.dataset_toml import HEADER, quoted
from sga_kohya.hsd.settings.config import HsdConfig, LevelConfig
from sga_kohya.kit.sealed import sealed

MUSUBI_TOML = "dataset_musubi.toml"
MUSUBI_CACHE = "cache_musubi"
"""Folder of the caches, with one of each level's folder in it."""
_LATENTS = re.compile(r"(.+)_\d{4,}x\d{4,}_[^_]+\.safetensors")
_TEXT = re.compile(r"(.+)_[^_]+_te\.safetensors")


def dataset_musubi(config: HsdConfig, out: Path, present: Container[str]) -> str:
    """out: absolute. present: names of the levels that have slices; the others are left out, with a comment."""
    levels = [_level(level, out) if level.name in present else _absent(level) for level in config.levels]
    return sealed(HEADER, "\n".join([_general(config), *levels]))


def caches_by_stem(out: Path) -> dict[str, list[Path]]:
    """FOLDER/STEM of a slice to musubi-tuner's caches of it, of all models: latents, and text encoders' outputs."""
    found: dict[str, list[Path]] = {}
    for file in sorted((out / MUSUBI_CACHE).glob("*/*.safetensors")):
        match = _TEXT.fullmatch(file.name) or _LATENTS.fullmatch(file.name)
        if match:
            found.setdefault(f"{file.parent.name}/{match.group(1)}", []).append(file)
    return found


def remove_empty_caches(out: Path, folders: Sequence[str]) -> None:
    """Folders of caches in which nothing is left."""
    for folder in (*(out / MUSUBI_CACHE / name for name in folders), out / MUSUBI_CACHE):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _general(config: HsdConfig) -> str:
    sizes = [size for own in config.everywhere for level in own.levels for size in level.targets(own.min_size)]
    side = math.isqrt(max(width * height for width, height in sizes) - 1) + 1
    return f"""
[general]
# No slice has a larger area, and every side is a multiple of 64: nothing is resized or cropped again.
resolution = {[side, side]}
enable_bucket = true
bucket_no_upscale = true
batch_size = {config.batch_size}
caption_extension = ".txt"
{_masks(config.masks)}"""


def _masks(masks: str) -> str:
    return "" if masks == NONE else "# musubi-tuner (v0.2.15 to v0.3.4) has no masked loss: all of each slice counts.\n"


def _level(level: LevelConfig, out: Path) -> str:
    return f"""[[datasets]]
image_directory = {quoted(str(out / level.folder))}
cache_directory = {quoted(str(out / MUSUBI_CACHE / level.folder))}
num_repeats = {level.repeats}
"""


def _absent(level: LevelConfig) -> str:
    return f"# No {level.name} slices.\n"
