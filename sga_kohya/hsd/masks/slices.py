"""Masks of slices: cut with them, of their size; and photos' masks drawn from what a detector finds."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sga_kohya.hsd.cut.decompose import Crop, Region
from sga_kohya.hsd.detect import Detection, Detector, View
from sga_kohya.hsd.masks.sources import COUNTS, counted

LEAST = 0.01
"""Share of a slice that has to count: a loss of nothing would be a step of nothing."""
MASKED_OUT = "masked out"


class Drawing:
    """A detector, and what the masks of its detections make up in each photo."""

    def __init__(self, detector: Detector) -> None:
        self.name, self._detector = detector.name, detector
        self._drawn: dict[str, np.ndarray] = {}

    def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
        found = self._detector.detect(views, level)
        for view, detections in zip(views, found, strict=True):
            for detection in detections:
                if detection.mask is not None:
                    self._draw(view, detection, detection.mask)
        return found

    def of(self, source: str) -> np.ndarray | None:
        """None where nothing was drawn."""
        return self._drawn.get(source)

    def _draw(self, view: View, detection: Detection, mask: np.ndarray) -> None:
        width, height = view.photo_size
        canvas = self._drawn.setdefault(view.source, np.zeros((height, width), np.uint8))
        box = detection.box.shifted(view.box.x0, view.box.y0)
        place = canvas[box.y0 : box.y1, box.x0 : box.x1]
        np.maximum(place, mask, out=place)


def without_masked_out(regions: Sequence[Region], mask: np.ndarray | None) -> list[Region]:
    """Kept crops in which next to nothing counts become discards."""
    if mask is None:
        return list(regions)
    return [replace(region, crops=tuple(_judged(crop, mask) for crop in region.crops)) for region in regions]


def _judged(crop: Crop, mask: np.ndarray) -> Crop:
    share = _part(mask, crop).mean() / COUNTS
    if not crop.kept or share >= LEAST:
        return crop
    return replace(crop, size=None, reason=f"{MASKED_OUT}: {share:.1%} of it counts, below {LEAST:.0%}")


def slice_mask(mask: np.ndarray | None, crop: Crop) -> np.ndarray:
    """(H, W) uint8 of a kept crop's size; white of a photo that counts wholly."""
    if crop.size is None:
        raise ValueError(f"no mask of a discarded crop ({crop.reason})")
    return counted(None if mask is None else _part(mask, crop), crop.size)


def _part(mask: np.ndarray, crop: Crop) -> np.ndarray:
    return mask[crop.box.y0 : crop.box.y1, crop.box.x0 : crop.box.x1]
