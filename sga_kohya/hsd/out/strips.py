"""The pictures of report and review: the slices of a group side by side, small, and each photo."""

from collections.abc import Sequence

import cv2
import numpy as np

from sga_kohya.hsd.photos.scaling import fitted, shrink

TILE_HEIGHT = 192
VIEW = 640
"""Longer side of a photo, in pixels."""
GAP = 4
"""Pixels between two slices."""
QUALITY = 82


def tile_width(width: int, height: int) -> int:
    return max(1, round(width * TILE_HEIGHT / height))


def tile(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) RGB uint8 to the same picture TILE_HEIGHT pixels high."""
    return shrink(pixels, (tile_width(pixels.shape[1], pixels.shape[0]), TILE_HEIGHT))


def strip(tiles: Sequence[np.ndarray]) -> bytes:
    """A JPEG of the tiles in a row. White between them, as it is seen on any background only as a line."""
    gap = np.full((TILE_HEIGHT, GAP, 3), 255, np.uint8)
    parts = [part for picture in tiles for part in (gap, picture)][1:]
    return _jpeg(np.concatenate(parts, axis=1))


def view(pixels: np.ndarray, side: int = VIEW, half: np.ndarray | None = None) -> bytes:
    """A JPEG of a photo, (H, W, 3) RGB uint8, whose longer side has at most `side` pixels. half: as of `shrink`."""
    return _jpeg(shrink(pixels, fitted((pixels.shape[1], pixels.shape[0]), side), half))


def _jpeg(pixels: np.ndarray) -> bytes:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise ValueError(f"a picture of {pixels.shape[1]}x{pixels.shape[0]} pixels cannot be encoded")
    return data.tobytes()
