"""Fitting a view into a model's input and bringing boxes back, as ultralytics does it: other pixels, other boxes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np

from sga_kohya.hsd.cut.geometry import Box, Size
from sga_kohya.hsd.detect import Detection

T = TypeVar("T")
GREY = 114
"""What YOLO models were trained to see around a picture."""


@dataclass(frozen=True)
class Stretch:
    """A picture of `source` size, pulled to `target` size whatever its shape. Sizes are (width, height)."""

    source: Size
    target: Size

    @property
    def inner(self) -> Size:
        """The picture's size inside the target."""
        return self.target

    @property
    def offset(self) -> Size:
        return (self.target[0] - self.inner[0]) // 2, (self.target[1] - self.inner[1]) // 2

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 of the source size to the target size.

        Linear also where it shrinks: averaging would be the better picture, and not the one that was trained on.
        """
        (left, top), (width, height) = self.offset, self.inner
        canvas = np.full((self.target[1], self.target[0], 3), GREY, np.uint8)
        canvas[top : top + height, left : left + width] = cv2.resize(pixels, self.inner)
        return canvas

    def undo(self, boxes: np.ndarray) -> np.ndarray:
        """(n, 4) corners in target pixels to source pixels."""
        zoom = np.array([self.source[0] / self.inner[0], self.source[1] / self.inner[1]] * 2)
        return (boxes - np.array(self.offset * 2)) * zoom

    def undo_map(self, values: np.ndarray, box: Box) -> np.ndarray:
        """(h, w) of something seen all over the target, at any size, to (height, width) of a box of the source."""
        matrix = np.zeros((2, 3))
        for axis, start in enumerate((box.x0, box.y0)):
            # Centres of pixels lie at halves, on both sides.
            grain = values.shape[1 - axis] / self.target[axis]
            zoom = self.inner[axis] / self.source[axis] * grain
            matrix[axis, axis] = zoom
            matrix[axis, 2] = (start + 0.5) * zoom + self.offset[axis] * grain - 0.5
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(values, matrix, box.size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


@dataclass(frozen=True)
class Letterbox(Stretch):
    """A picture of `source` size, scaled to fit into `target` and centred there, grey around it."""

    @property
    def inner(self) -> Size:
        scale = min(self.target[0] / self.source[0], self.target[1] / self.source[1])
        return max(1, round(self.source[0] * scale)), max(1, round(self.source[1] * scale))


def to_detection(corners: Sequence[float], score: float, level: str, label: str, size: Size) -> Detection | None:
    """Whole pixels around the corners x0, y0, x1, y1, cut at a view of `size`; None when nothing is left.

    A box without any width or height is nothing: rounded outwards it would be a pixel.
    """
    if not (np.isfinite(corners).all() and corners[0] < corners[2] and corners[1] < corners[3]):
        return None
    # Rounding first: 99.9999 that was 100 must not take in a further column.
    x0, y0 = (int(np.floor(round(float(edge), 2))) for edge in corners[:2])
    x1, y1 = (int(np.ceil(round(float(edge), 2))) for edge in corners[2:])
    x0, y0, x1, y1 = max(0, x0), max(0, y0), min(size[0], x1), min(size[1], y1)
    # Rounded: the last bits of a score depend on the device.
    return Detection(Box(x0, y0, x1, y1), round(float(score), 4), level, label) if x0 < x1 and y0 < y1 else None


def best_first(detections: Sequence[Detection | None]) -> list[Detection]:
    """Without None; of equal scores, such as annotations have, the larger box first."""
    return sorted((d for d in detections if d), key=lambda d: (-d.score, -d.box.area, d.box, d.label))


def chunks(items: Sequence[T], size: int) -> Iterator[tuple[list[T], int]]:
    """Lists of exactly `size`, the last one filled up with its own last item, and how many are real.

    A batch of constant size takes the same kernels whatever is in it, so that no result depends on the batch.
    """
    for start in range(0, len(items), size):
        chunk = list(items[start : start + size])
        yield chunk + [chunk[-1]] * (size - len(chunk)), len(chunk)
