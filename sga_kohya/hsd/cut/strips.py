"""A photo that is too long for any size, such as a panorama or a webtoon, as several regions, end to end."""

import cv2
import numpy as np

from sga_kohya.hsd.cut.adapt import framed, tabled
from sga_kohya.hsd.cut.geometry import Box, Size

LONG = 2.0
"""Length over width below which no photo is too long, whatever sizes there are."""
USED = 0.75
"""Share of a photo that its best size has to show, below which it is taken as several regions."""
LENGTH = 1.5
"""Length of a region over its width, about: what models have seen most of."""
LEEWAY = 0.25
"""How far a cut may move from its even place, over a region's length, to where least is cut."""
NARROW = 64
"""Width that a photo is looked at with for that."""


def strips(pixels: np.ndarray, targets: tuple[Size, ...]) -> list[Box]:
    """The whole of (H, W, 3) RGB uint8 as one box, or as several that together are the whole."""
    size = (pixels.shape[1], pixels.shape[0])
    used = framed(tabled(targets), size, size).prod(0).max()
    if used >= USED * size[0] * size[1] or max(size) < LONG * min(size):
        return [Box.whole(size)]
    upright = pixels if size[1] > size[0] else pixels.transpose(1, 0, 2)
    length, width = upright.shape[:2]
    cuts = [0, *quiet_rows(upright, max(2, round(length / width / LENGTH))), length]
    boxes = [Box(0, start, width, end) for start, end in zip(cuts, cuts[1:], strict=False)]
    return boxes if upright is pixels else [Box(box.y0, box.x0, box.y1, box.x1) for box in boxes]


def quiet_rows(pixels: np.ndarray, parts: int) -> list[int]:
    """Rows at which (H, W, 3) is best cut into so many parts: about even, and where a row is most of one colour."""
    length, width = pixels.shape[:2]
    zoom = max(1.0, width / NARROW)
    small = cv2.resize(pixels, (round(width / zoom), round(length / zoom)), interpolation=cv2.INTER_AREA)
    unrest = cv2.blur(small.astype(np.float32).std(1).mean(1)[:, None], (1, 3)).ravel()
    part = len(unrest) / parts
    rows = []
    for number in range(1, parts):
        start, end = (round((number + side * LEEWAY) * part) for side in (-1, 1))
        # Of equally quiet rows the middle one: a gutter is cut in its middle.
        quiet = np.flatnonzero(unrest[start : end + 1] <= unrest[start : end + 1].min() + 0.5)
        rows.append(round((start + int(quiet[len(quiet) // 2]) + 0.5) * zoom))
    return rows
