"""Why a crop is left out for what it shows, or rather does not.

A crop filter is a function of a planned crop's pixels, the crop and its level: it returns "kind: details" for one that
is left out, None for one that stays; the next best detection then takes its place. A further one is a function and an
entry in CROP_FILTERS.
"""

from collections.abc import Callable

import cv2
import numpy as np

from sga_kohya.hsd.cut.crop import Crop
from sga_kohya.hsd.settings.config import LevelConfig

CropFilter = Callable[[np.ndarray, Crop, LevelConfig], str | None]

PATCH, ACROSS, MARGIN = 64, 3, 8
"""Side of a patch in pixels of the slice, how many are looked at in each direction, and how much of one is not."""
SHARPEST = 2
"""Of the patches: a slice may well be out of focus around its subject."""
GRAIN, SHADING = 1.0, 4.0
"""Deviations in pixels between which detail lies: noise is finer, the gradient of a sky is coarser."""


def without_detail(pixels: np.ndarray, crop: Crop, level: LevelConfig) -> str | None:
    """Flat, blurred or without texture for its level: `min_detail`."""
    if level.min_detail <= 0:
        return None
    found = detail(pixels, crop.scale or 1.0)
    if found >= level.min_detail:
        return None
    return f"no detail: {found:.1f} grey levels where it is richest, below min_detail {level.min_detail:g}"


CROP_FILTERS: list[CropFilter] = [without_detail]
"""Asked by one thread, for each crop that would be taken. Their names are part of what a photo's rows depend on."""


def detail(pixels: np.ndarray, scale: float) -> float:
    """Standard deviation of a slice's middle frequencies, in grey levels of 256, where it is richest in them.

    pixels: (H, W, 3) RGB uint8 at the photo's scale. scale: of the slice; it is judged at the size it will have.
    """
    height, width = pixels.shape[:2]
    side = max(1, min(round(PATCH / scale), height, width))
    tops, lefts = (np.linspace(0, length - side, ACROSS).astype(int) for length in (height, width))
    patches = [pixels[y : y + side, x : x + side] for y in tops for x in lefts]
    scaled = [cv2.resize(patch, (PATCH, PATCH), interpolation=_how(side)) for patch in patches]
    grey = cv2.cvtColor(np.concatenate(scaled), cv2.COLOR_RGB2GRAY).astype(np.float32)
    middle = cv2.GaussianBlur(grey, (0, 0), GRAIN) - cv2.GaussianBlur(grey, (0, 0), SHADING)
    # Without the margin, into which the neighbours in the stack have been blurred.
    inner = middle.reshape(len(patches), PATCH, PATCH)[:, MARGIN:-MARGIN]
    return float(np.sort(inner.std((1, 2)))[-SHARPEST:].mean())


def _how(side: int) -> int:
    return cv2.INTER_AREA if side > PATCH else cv2.INTER_LINEAR
