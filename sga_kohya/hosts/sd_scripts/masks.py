"""Mask images for --masked_loss (conditioning_data_dir), checked before anything is loaded.

What does not fit is an AssertionError of sd-scripts otherwise, of one file at a time and in the midst of training.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from sga_kohya.hosts.sd_scripts.folders import Folder

_SWITCHED_OFF = (None, False, "false")
_MOST_NAMES = 3


def mask_problems(folder: Folder, options: Mapping[str, Any]) -> Iterator[str]:
    """options: by name, as read_options gives them."""
    if folder.masks is None:
        return
    if options.get("masked_loss") in _SWITCHED_OFF:
        yield f"conditioning_data_dir {folder.masks}: sd-scripts knows mask images only with masked_loss = true: set it"
    if not folder.masks.is_dir():
        yield f"conditioning_data_dir {folder.masks}: {folder.masks.absolute()} does not exist; correct the path"
        return
    pairs = _pairs(folder)
    missing = [image for image, mask in pairs if mask is None]
    if missing:
        yield (
            f"{folder.masks}: {len(missing)} of {len(pairs)} images of {folder.path} have no mask, such as "
            f"{_names(missing)}: add one of the same name each, white where all counts"
        )
    unlike = [image for image, mask in pairs if mask and _size(image) != _size(mask)] if folder.bucketed else []
    if unlike:
        yield (
            f"{folder.masks}: {len(unlike)} masks are not of their image's width and height, such as that of "
            f"{_names(unlike)}: make them of equal size"
        )


def mask_advice(folders: Sequence[Folder], options: Mapping[str, Any]) -> Iterator[str]:
    if options.get("masked_loss") in _SWITCHED_OFF or not folders:
        return
    if not any(folder.masks or folder.alpha_mask for folder in folders):
        yield (
            "masked_loss does nothing: no subset has mask images (conditioning_data_dir) or takes the image's own "
            "transparency (alpha_mask = true)"
        )


def _pairs(folder: Folder) -> list[tuple[Path, Path | None]]:
    """Each image and its mask, which is found by the stem."""
    masks = {mask.stem: mask for mask in Folder("", folder.masks or Path()).images()}
    return [(image, masks.get(image.stem)) for image in folder.images()]


def _size(path: Path) -> tuple[int, int] | None:
    """Of the file's header; None where it cannot be read, which the host says."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, UnidentifiedImageError):
        return None


def _names(images: Sequence[Path]) -> str:
    return ", ".join(image.name for image in images[:_MOST_NAMES])
