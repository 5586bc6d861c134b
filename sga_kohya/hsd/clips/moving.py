"""The moving pictures of report and review: the slices of a group side by side, and the clip they are from."""

import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from sga_kohya.hsd.out.strips import GAP, TILE_HEIGHT, tile
from sga_kohya.hsd.photos.scaling import fit

STEPS = 12
"""Pictures of one round; slices that are longer skip frames, shorter ones repeat them."""
VIEW = 480
"""Longer side of a clip, in pixels."""
QUALITY = 60
LEAST = 40
"""Milliseconds that a picture stands at least: browsers slow down what is faster."""


class Thumbnail:
    """The small pictures of one slice, collected as it is written. frames: that it has."""

    def __init__(self, frames: int) -> None:
        self._wanted = [round(place) for place in np.linspace(0, frames - 1, STEPS)]
        self._tiles: dict[int, np.ndarray] = {}

    def see(self, number: int, pixels: np.ndarray) -> None:
        """number: of the frame within the slice. pixels: (H, W, 3) RGB uint8."""
        if number in self._wanted:
            self._tiles[number] = tile(pixels)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self._tiles[number] for number in self._wanted)


def moving_strip(thumbnails: Sequence[Thumbnail], seconds: float) -> bytes:
    """An animated WebP of the slices in a row, as `strips.strip` puts them. seconds: of the longest."""
    gap = np.full((TILE_HEIGHT, GAP, 3), 255, np.uint8)
    rounds = zip(*thumbnails, strict=True)
    return animation([np.concatenate([p for t in tiles for p in (gap, t)][1:], axis=1) for tiles in rounds], seconds)


class View:
    """Small pictures of a whole clip over a span of so many frames."""

    def __init__(self, frames: int) -> None:
        self._wanted = {round(place) for place in np.linspace(0, frames - 1, STEPS)}
        self.pictures: list[np.ndarray] = []

    def see(self, number: int, pixels: np.ndarray) -> None:
        if number in self._wanted:
            self.pictures.append(fit(pixels, VIEW))


def animation(pictures: Sequence[np.ndarray], seconds: float) -> bytes:
    """An animated WebP that takes so long and begins again. pictures: (H, W, 3) RGB uint8, all of one size."""
    first, *others = map(Image.fromarray, pictures)
    buffer, each = io.BytesIO(), max(LEAST, round(1000 * seconds / len(pictures)))
    first.save(buffer, "WEBP", save_all=True, append_images=others, duration=each, loop=0, quality=QUALITY, method=2)
    return buffer.getvalue()
