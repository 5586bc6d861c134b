"""The report's pictures: the slices of a group side by side, small."""

from collections.abc import Sequence

import cv2
import numpy as np

from sga_kohya.hsd.photos.images import shrink

TILE_HEIGHT = 144
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
    pixels = cv2.cvtColor(np.concatenate(parts, axis=1), cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise ValueError(f"a strip of {pixels.shape[1]} pixels cannot be encoded")
    return data.tobytes()
