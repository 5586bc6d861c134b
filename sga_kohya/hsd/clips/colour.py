"""A decoded frame to RGB as a screen shows it: by its own matrix and range, square pixels, upright, on white.

Not by PyAV's `to_image`: that takes every frame for BT.601, whatever the file says, which shifts the colours of all HD
clips. The matrix is applied here; PyAV only brings planes to one size.
"""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from sga_kohya.hsd.clips import hdr
from sga_kohya.hsd.cut.geometry import Size

BT709, UNSPECIFIED, BT2020 = 1, 2, (9, 10)
HD = 720
"""Height from which on a file that names no matrix has BT.709's."""
LUMA = {BT709: (0.2126, 0.0722), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593), 7: (0.212, 0.087), 4: (0.30, 0.11)}
"""Shares of red and blue in the luma, by ISO/IEC 23091-2's number of the matrix; BT.601's for all others."""
BT601 = (0.299, 0.114)
FULL = 2


@dataclass(frozen=True)
class Shape:
    """How a frame's stored pixels lie: quarter turns counter-clockwise to upright, and width over height of one; and by
    which transfer function they were stored."""

    turns: int = 0
    aspect: float = 1.0
    transfer: int = 0

    def upright(self, stored: Size) -> Size:
        """Width and height of the upright picture in square pixels."""
        width, height = self.square(stored)
        return (height, width) if self.turns % 2 else (width, height)

    def square(self, stored: Size) -> Size:
        return max(1, round(stored[0] * self.aspect)), stored[1]


def to_rgb(frame: Any, shape: Shape) -> np.ndarray:
    """(H, W, 3) RGB uint8, upright, in square pixels. frame: of PyAV."""
    width, height = shape.square((frame.width, frame.height))
    if _is_yuv(frame.format):
        pixels = (
            _from_hdr(frame, width, height, shape) if shape.transfer in hdr.NAMES else _from_yuv(frame, width, height)
        )
    else:
        pixels = frame.reformat(width, height, "rgb24").to_ndarray()
    if has_alpha(frame.format):
        pixels = _on_white(pixels, frame.reformat(width, height, "rgba").to_ndarray()[..., 3])
    return np.ascontiguousarray(np.rot90(pixels, shape.turns)) if shape.turns else pixels


def has_alpha(form: Any) -> bool:
    return any(component.is_alpha for component in form.components)


def _is_yuv(form: Any) -> bool:
    """Whether a matrix has to be known: not of RGB, palettes, or grey."""
    return not form.is_rgb and not form.has_palette and len(form.components) >= 3


def _from_yuv(frame: Any, width: int, height: int) -> np.ndarray:
    jpeg = frame.format.name.startswith("yuvj")
    planes = frame.reformat(width, height, "yuvj444p" if jpeg else "yuv444p").to_ndarray()
    matrix = yuv_to_rgb(matrix_of(frame), full=jpeg or frame.color_range == FULL)
    found: np.ndarray = cv2.transform(cv2.merge(list(planes)), matrix)
    return found


def _from_hdr(frame: Any, width: int, height: int, shape: Shape) -> np.ndarray:
    stored = frame.reformat(width, height, "yuv444p16le").planes
    rows = (np.frombuffer(plane, "<u2").reshape(height, -1)[:, :width] for plane in stored)  # each padded
    planes = [plane.astype(np.float32) / 256 for plane in rows]
    signal = cv2.transform(cv2.merge(planes), yuv_to_rgb(matrix_of(frame), frame.color_range == FULL))
    return hdr.to_screen(np.clip(signal / 255, 0, 1), shape.transfer)


def matrix_of(frame: Any) -> int:
    """Its number; of a file that names none, by its height, as players do."""
    known = int(frame.colorspace)
    return (BT709 if frame.height >= HD else 6) if known == UNSPECIFIED else known


def yuv_to_rgb(matrix: int, full: bool) -> np.ndarray:
    """3x4, for values of 0 to 255: luma, two differences, one."""
    red, blue = LUMA.get(matrix, BT601)
    green = 1 - red - blue
    weights = np.array(
        [
            [1, 0, 2 * (1 - red)],
            [1, -2 * blue * (1 - blue) / green, -2 * red * (1 - red) / green],
            [1, 2 * (1 - blue), 0],
        ]
    )
    if not full:
        weights = weights * [255 / 219, 255 / 224, 255 / 224]
    offset = -weights @ [0 if full else 16, 128, 128]
    return np.column_stack([weights, offset]).astype(np.float32)


def _on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    if alpha.min() == 255:
        return pixels
    share = alpha[..., None].astype(np.uint16)
    return ((pixels * share + 255 * (255 - share) + 127) // 255).astype(np.uint8)


def quarter_turns(display_matrix: bytes) -> int:
    """Counter-clockwise, of the 3x3 matrix in 16.16 fixed point that files carry."""
    a, b = np.frombuffer(display_matrix, "<i4", 2) / 65536
    # The matrix turns clockwise by its angle, as rows of a picture run down.
    return -round(math.degrees(math.atan2(b, a)) / 90) % 4
