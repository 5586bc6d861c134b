"""An existing kohya dataset: a folder or a dataset TOML, as the TOML that will be written and the images in it."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.kit.files import user_path
from sga_kohya.kit.pictures import is_picture
from sga_kohya.kit.text import UnreadableText, lines_of, read_text
from sga_kohya.kit.toml_file import listed_tables, read_toml
from sga_kohya.words import ATTRIBUTE

EXTENSIONS = {".avif", ".bmp", ".jpeg", ".jpg", ".jxl", ".png", ".webp"}
"""What sd-scripts takes for images, some of them with a plugin; other pictures would be labelled but not trained on."""
CAPTION_EXTENSION = ".txt"


@dataclass(frozen=True)
class Sample:
    """path: absolute. caption: "" without one."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Dataset:
    """toml: as sd-scripts reads it, with absolute folders. samples: in the order of their paths, each once. dropped:
    tables whose granularity would have overridden the new ones. untrained: pictures that sd-scripts does not read.
    unreadable: captions whose encoding cannot be known."""

    toml: dict[str, Any]
    samples: list[Sample]
    dropped: int
    untrained: list[Path]
    unreadable: list[UnreadableText]


def read_dataset(path: Path, resolution: int, batch_size: int) -> Dataset:
    """path: a dataset TOML, a folder of images, or one of kohya's folders such as 10_dog. resolution and batch_size:
    for folders, a TOML has its own. Raises SgaError naming what cannot be used."""
    if path.is_dir():
        config = _folder_config(path.resolve(), resolution, batch_size)
    elif path.is_file():
        config = _load(path)
    else:
        raise SgaError(f"no folder or TOML {path}: give the dataset that you train on")
    samples: dict[Path, Sample] = {}
    untrained: set[Path] = set()
    unreadable: list[UnreadableText] = []
    subsets = list(_subsets(config, path))
    tables = [config.get("general", {}), *config.get("datasets", []), *(subset for subset, _ in subsets)]
    dropped = sum(_drop_granularity(table) for table in tables)
    for subset, inherited in subsets:
        _make_absolute(subset)
        if not subset.get("is_reg"):
            extension = str(subset.get("caption_extension", inherited.get("caption_extension", ".caption")))
            fallback = str(subset.get("class_tokens", inherited.get("class_tokens", "")) or "")
            pictures = _pictures(subset, path)
            untrained.update(image for image in pictures if image.suffix.lower() not in EXTENSIONS)
            for image in (image for image in pictures if image not in untrained):
                samples.setdefault(image, Sample(image, _caption(image, extension, unreadable) or fallback))
    if not samples:
        raise SgaError(f"no images in {path}: give a folder of images, or of folders such as 10_dog, or a dataset TOML")
    return Dataset(config, [samples[image] for image in sorted(samples)], dropped, sorted(untrained), unreadable)


def _folder_config(folder: Path, resolution: int, batch_size: int) -> dict[str, Any]:
    named = sorted(entry for entry in folder.iterdir() if entry.is_dir() and re.match(r"\d+_", entry.name))
    subsets = [_folder_subset(entry) for entry in (named or [folder])]
    bucketing = {"enable_bucket": True, "bucket_no_upscale": True, "max_bucket_reso": 2 * resolution}
    return {"datasets": [{"resolution": resolution, "batch_size": batch_size, **bucketing, "subsets": subsets}]}


def _folder_subset(folder: Path) -> dict[str, Any]:
    """As --train_data_dir reads it: 10_dog is repeated ten times, "dog" stands in where there is no caption."""
    match = re.match(r"(\d+)_(.+)", folder.name)
    repeats, tokens = (int(match[1]), match[2]) if match else (1, folder.name)
    captions = ".caption" if any(folder.glob("*.caption")) and not any(folder.glob("*.txt")) else CAPTION_EXTENSION
    return {
        "image_dir": str(folder),
        "num_repeats": repeats,
        "class_tokens": tokens,
        "caption_extension": captions,
    }


def _load(path: Path) -> dict[str, Any]:
    config = read_toml(path)
    if not isinstance(config.get("general", {}), dict):
        raise SgaError(f"{path}: write [general] with one bracket, for what all datasets share")
    if not any(True for _ in _subsets(config, path)):
        raise SgaError(f"{path} has no [[datasets.subsets]]: give a dataset TOML, as for --dataset_config")
    return config


def _subsets(config: Mapping[str, Any], path: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each subset, and what it inherits from its dataset and from [general]. path: names the TOML in errors."""
    for dataset in listed_tables(config, "datasets", str(path)):
        for subset in listed_tables(dataset, "subsets", str(path)):
            yield subset, {**config.get("general", {}), **dataset}


def _make_absolute(subset: dict[str, Any]) -> None:
    """Folders count from where sd-scripts is started, which may be elsewhere. Raises SgaError for one no TOML holds."""
    for key in ("image_dir", "conditioning_data_dir", "metadata_file"):
        if key in subset:
            subset[key] = os.path.abspath(user_path(subset[key], key))
            try:
                subset[key].encode()
            except UnicodeEncodeError:
                raise SgaError(
                    f"{key} {subset[key]!a}: the name is not UTF-8, which TOML has to be: rename it"
                ) from None


def _drop_granularity(table: dict[str, Any]) -> bool:
    """Whether there was one."""
    attributes = table.get("custom_attributes")
    if not isinstance(attributes, dict):
        return False  # sd-scripts says what is wrong with it
    had = attributes.pop(ATTRIBUTE, None) is not None
    if had and not attributes:
        del table["custom_attributes"]
    return had


def _pictures(subset: Mapping[str, Any], path: Path) -> list[Path]:
    if "image_dir" not in subset:
        raise SgaError(f"{path}: a subset has no image_dir: only images in folders can be labelled")
    folder = Path(subset["image_dir"])
    if not folder.is_dir():
        raise SgaError(f"{path}: no folder {folder}: correct image_dir, or start from where sd-scripts is started")
    return sorted(filter(is_picture, folder.iterdir()))


def _caption(image: Path, extension: str, unreadable: list[UnreadableText]) -> str:
    """The first line, which is what sd-scripts reads. One that cannot be read is "" and goes to `unreadable`."""
    file = image.with_name(image.stem + (extension if extension.startswith(".") else f".{extension}"))
    if not file.is_file():
        return ""
    try:
        lines = lines_of(read_text(file))
    except UnreadableText as error:
        unreadable.append(error)
        return ""
    return lines[0] if lines else ""
