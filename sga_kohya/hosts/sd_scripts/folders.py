"""The folders of images that a run will read, found as sd-scripts finds them but without importing it."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.kit.files import user_path
from sga_kohya.kit.toml_file import merge_sections, read_toml
from sga_kohya.options import HOST

# Not kit/pictures.py: these are what sd-scripts reads, the last two with a plugin, and what it will not train on is
# no image of a run.
_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".jxl"}
_OF_A_TRAINING = ("pretrained_model_name_or_path", "output_dir", "network_module", "max_train_steps", "learning_rate")
_OF_MUSUBI = ("image_directory", "image_jsonl_file", "video_directory", "video_jsonl_file")
_CAPTIONS = ".caption"  # sd-scripts' default, where nothing names another


@dataclass(frozen=True)
class Folder:
    """One subset. origin: the option or file that names it. caption_extension: with its dot. masks: where its mask
    images are. bucketed: whether images keep their shapes."""

    origin: str
    path: Path
    caption_extension: str = _CAPTIONS
    class_tokens: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    masks: Path | None = None
    alpha_mask: bool = False
    bucketed: bool = False
    enable_wildcard: bool = False

    def images(self) -> list[Path]:
        """Its image files in order of their names; none where it does not exist."""
        if not self.path.is_dir():
            return []
        return sorted(path for path in self.path.iterdir() if path.suffix.lower() in _IMAGES)


def find_folders(options: Mapping[str, Any]) -> list[Folder]:
    """The subsets of --dataset_config, else the N_name folders of --train_data_dir; subsets with metadata have none.

    Raises SgaError when the file or the folder does not exist, or when the file holds no datasets that the host reads.
    """
    if options.get("dataset_config"):
        return list(_from_file(str(options["dataset_config"]), options))
    # with --in_json the folder is flat and the captions are in that file
    if options.get("train_data_dir") and not options.get("in_json"):
        return list(_from_subfolders(str(options["train_data_dir"]), options))
    return []


def batch_sizes(options: Mapping[str, Any]) -> list[int]:
    """What the datasets of --dataset_config set as their own, which sd-scripts reads before --train_batch_size."""
    content = _read(str(options["dataset_config"]))
    levels = [(dataset, content.get("general", {})) for dataset in content.get("datasets", [])]
    found = (_first("batch_size", *pair) for pair in levels)
    return [size for size in found if size is not None]


def _from_subfolders(name: str, options: Mapping[str, Any]) -> Iterator[Folder]:
    root = user_path(name, "--train_data_dir", home=False)
    if not root.is_dir():
        raise SgaError(f"--train_data_dir {name}: {root.absolute()} does not exist; correct the path")
    for path in sorted(root.iterdir()):
        repeats, _, words = path.name.partition("_")
        if path.is_dir() and repeats.isdecimal() and repeats.strip("0"):
            wildcard = bool(_first("enable_wildcard", options))
            yield Folder("--train_data_dir", path, _extension(options), words, enable_wildcard=wildcard)


def _from_file(name: str, options: Mapping[str, Any]) -> Iterator[Folder]:
    content, what = _read(name), f"--dataset_config {name}"
    general = content.get("general", {})
    if not isinstance(general, Mapping):
        raise SgaError(f"{what}: write [general] with one bracket, for what all datasets share")
    for dataset in _tables(name, content, "datasets"):
        theirs = next((key for key in _OF_MUSUBI if key in dataset), None)
        if theirs and "subsets" not in dataset:
            raise SgaError(
                f"{what}: this describes data for musubi-tuner ({theirs} is in it): its door is -m sga_kohya.musubi. "
                "sd-scripts wants [[datasets.subsets]] with image_dir"
            )
        for subset in _tables(name, dataset, "datasets.subsets"):
            if "image_dir" in subset and "metadata_file" not in subset:
                # nearest first, as sd-scripts falls back
                levels = (subset, dataset, general, options)
                attributes = _first("custom_attributes", *levels[:-1])
                yield Folder(
                    f"{name}: image_dir",
                    user_path(subset["image_dir"], f"{name}: image_dir", home=False),
                    _extension(*levels),
                    _first("class_tokens", *levels[:-1]),
                    attributes if isinstance(attributes, Mapping) else {},
                    Path(str(subset["conditioning_data_dir"])) if "conditioning_data_dir" in subset else None,
                    bool(subset.get("alpha_mask")),
                    _first("enable_bucket", *levels) not in (None, False, "false"),
                    bool(_first("enable_wildcard", *levels)),
                )


def _read(name: str) -> dict[str, Any]:
    """What the file holds, which sd-scripts reads by the end of its name."""
    path, what = user_path(name, "--dataset_config", home=False), f"--dataset_config {name}"
    if not path.is_file():
        raise SgaError(f"{what}: {path.absolute()} does not exist; correct the path")
    if path.suffix.lower() == ".toml":
        content = read_toml(path, what, HOST)
    elif path.suffix.lower() == ".json":
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SgaError(f"{what}: not valid JSON: {error}") from None
    else:
        raise SgaError(f"{what}: sd-scripts reads .toml and .json; give one of them")
    known = [key for key in _OF_A_TRAINING if key in merge_sections(content)] if isinstance(content, dict) else []
    if known and "datasets" not in content:
        raise SgaError(
            f"{what}: these are the settings of a training ({known[0]} is in them): give that file as --config_file, "
            "and here the one with [[datasets]]"
        )
    return content


def _tables(name: str, holder: Any, key: str) -> list[dict[str, Any]]:
    """The tables of that name, of which there must be one."""
    found = holder.get(key.rpartition(".")[2]) if isinstance(holder, Mapping) else None
    if isinstance(found, list) and found and all(isinstance(table, Mapping) for table in found):
        return found
    remedy = "write [[datasets]] with two brackets, and [[datasets.subsets]]"
    missing = f"there is no [[{key}]] in it" if not found else f"{key} is no list of tables"
    raise SgaError(f"--dataset_config {name}: {missing}: {remedy}")


def _first(key: str, *levels: Mapping[str, Any]) -> Any:
    return next((level[key] for level in levels if level.get(key) is not None), None)


def _extension(*levels: Mapping[str, Any]) -> str:
    extension = str(_first("caption_extension", *levels) or _first("caption_extention", *levels) or _CAPTIONS)
    if not re.fullmatch(r"\.?[^/\\.\0][^/\\\0]*", extension):
        raise SgaError(f"caption_extension = {extension!r}: write the end of the captions' names, such as .txt")
    return extension if extension.startswith(".") else f".{extension}"
