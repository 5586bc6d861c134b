"""Images and clips of a tiny dataset for musubi-tuner. What a cache holds is each stack's own."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


def write_images(
    folder: Path, groups: list[list[str]], sizes: list[tuple[int, int]], cache: Callable[[int, Any, Path], None]
) -> list[str]:
    """groups: the levels of each. cache(number, item, folder) writes what the host's cache scripts would.

    Slices are numbered through groups and their levels. Returns the levels, each with a folder of its own.
    """
    from musubi_tuner.dataset.image_video_dataset import ItemInfo
    from PIL import Image

    levels = sorted({level for group in groups for level in group})
    members = [(index, level) for index, group in enumerate(groups) for level in group]
    for number, (index, level) in enumerate(members):
        images, caches = folder / f"1_{level}", folder / "cache" / level
        images.mkdir(parents=True, exist_ok=True)
        caches.mkdir(parents=True, exist_ok=True)
        size = sizes[(index + levels.index(level)) % len(sizes)]
        Image.new("RGB", size, (index * 7 % 255, 90, 120)).save(images / f"{index:02}.png")
        (images / f"{index:02}.txt").write_text(f"{index} {level}")
        cache(number, ItemInfo(f"{index:02}", "", size, size), caches)
    return levels


def image_table(folder: Path, level: str) -> list[str]:
    return [
        f'image_directory = "{folder}/1_{level}"',
        f'cache_directory = "{folder}/cache/{level}"',
        *("resolution = [256, 256]", "batch_size = 2"),
    ]


def video_table(folder: Path, level: str) -> list[str]:
    return [f'video_directory = "{folder}/1_{level}"', f'cache_directory = "{folder}/cache/{level}"']


def write_toml(file: Path, head: list[str], tables: list[list[str]]) -> None:
    file.write_text("\n".join([*head, *(line for table in tables for line in ["[[datasets]]", *table, ""])]))


def paths(item: Any, folder: Path, architecture: str, place: str = "") -> None:
    """Name an item's caches as the host does. place: of a clip in its video."""
    width, height = item.original_size
    item.latent_cache_path = str(folder / f"{item.item_key}{place}_{width:04}x{height:04}_{architecture}.safetensors")
    item.text_encoder_output_cache_path = str(folder / f"{item.item_key}_{architecture}_te.safetensors")


def cache_module() -> ModuleType:
    """Where the host's functions are that write caches: before v0.3 among its datasets."""
    try:
        return importlib.import_module("musubi_tuner.dataset.cache_io")
    except ModuleNotFoundError:
        return importlib.import_module("musubi_tuner.dataset.image_video_dataset")
