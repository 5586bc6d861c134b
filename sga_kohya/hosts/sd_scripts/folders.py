"""The folders of images that a run will read, found as sd-scripts finds them but without importing it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import toml

from sga_kohya.errors import SgaError

# Not kit/pictures.py: these are what sd-scripts reads, the last two with a plugin, and what it will not train on is
# no image of a run.
_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".jxl"}
_CAPTIONS = ".caption"  # sd-scripts' default, where nothing names another


@dataclass(frozen=True)
class Folder:
    """One subset. origin: the option or file that names it. caption_extension: with its dot."""

    origin: str
    path: Path
    caption_extension: str = _CAPTIONS
    class_tokens: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    enable_wildcard: bool = False

    def images(self) -> list[Path]:
        """Its image files in order of their names; none where it does not exist."""
        if not self.path.is_dir():
            return []
        return sorted(path for path in self.path.iterdir() if path.suffix.lower() in _IMAGES)


def find_folders(options: Mapping[str, Any]) -> list[Folder]:
    """The subsets of --dataset_config, else the N_name folders of --train_data_dir; subsets with metadata have none.

    Raises SgaError when the file or the folder does not exist, or when the file is not valid TOML.
    """
    if options.get("dataset_config"):
        return list(_from_toml(str(options["dataset_config"]), options))
    # with --in_json the folder is flat and the captions are in that file
    if options.get("train_data_dir") and not options.get("in_json"):
        return list(_from_subfolders(str(options["train_data_dir"]), options))
    return []


def _from_subfolders(name: str, options: Mapping[str, Any]) -> Iterator[Folder]:
    root = Path(name)
    if not root.is_dir():
        raise SgaError(f"--train_data_dir {name}: {root.absolute()} does not exist; correct the path")
    for path in sorted(root.iterdir()):
        repeats, _, words = path.name.partition("_")
        if path.is_dir() and repeats.isdecimal() and int(repeats) > 0:
            wildcard = bool(_first("enable_wildcard", options))
            yield Folder("--train_data_dir", path, _extension(options), words, enable_wildcard=wildcard)


def _from_toml(name: str, options: Mapping[str, Any]) -> Iterator[Folder]:
    path = Path(name)
    if not path.is_file():
        raise SgaError(f"--dataset_config {name}: {path.absolute()} does not exist; correct the path")
    if path.suffix.lower() != ".toml":
        return
    try:
        content = toml.loads(path.read_text(encoding="utf-8"))
    except (toml.TomlDecodeError, UnicodeDecodeError) as error:
        raise SgaError(f"--dataset_config {name}: not valid TOML: {error}") from None
    if not isinstance(content.get("datasets", []), list):
        raise SgaError(f"--dataset_config {name}: write [[datasets]] with two brackets, and [[datasets.subsets]]")
    for dataset in content.get("datasets", []):
        for subset in dataset.get("subsets", []):
            if "image_dir" in subset and "metadata_file" not in subset:
                # nearest first, as sd-scripts falls back
                levels = (subset, dataset, content.get("general", {}), options)
                yield Folder(
                    f"{name}: image_dir",
                    Path(str(subset["image_dir"])),
                    _extension(*levels),
                    _first("class_tokens", *levels[:-1]),
                    _first("custom_attributes", *levels[:-1]) or {},
                    bool(_first("enable_wildcard", *levels)),
                )


def _first(key: str, *levels: Mapping[str, Any]) -> Any:
    return next((level[key] for level in levels if level.get(key) is not None), None)


def _extension(*levels: Mapping[str, Any]) -> str:
    extension = str(_first("caption_extension", *levels) or _first("caption_extention", *levels) or _CAPTIONS)
    return extension if extension.startswith(".") else f".{extension}"
