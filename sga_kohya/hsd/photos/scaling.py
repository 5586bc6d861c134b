"""Pixels of other sizes. They are uint8 arrays of shape (H, W, 3)."""

import cv2
import numpy as np
from PIL import Image

from sga_kohya.hsd.cut.geometry import Size


def resize(pixels: np.ndarray, size: Size) -> np.ndarray:
    """(H, W, 3) uint8 to (width, height); the same pixels when that is their size already.

    Smaller: blurred against aliasing and sampled by bicubic interpolation, or averaged where the factor is 2 or more;
    above 50 dB PSNR of Pillow's Lanczos on photos, at a tenth of its time. Larger: Lanczos.
    """
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    factors = width / size[0], height / size[1]
    if min(factors) < 1:
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    if max(factors) >= 2:
        return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    # Fitted to Lanczos: nothing at factor 1, three taps suffice up to 2.
    sigma_x, sigma_y = (0.4 * factor - 0.04 for factor in factors)
    blurred = cv2.GaussianBlur(pixels, (3, 3), sigma_x, sigmaY=sigma_y)
    return cv2.resize(blurred, size, interpolation=cv2.INTER_CUBIC)


def fit(pixels: np.ndarray, side: int) -> np.ndarray:
    """(H, W, 3), averaged down so that the longer side is at most `side`; never enlarged."""
    size = fitted((pixels.shape[1], pixels.shape[0]), side)
    return pixels if size == pixels.shape[1::-1] else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def fitted(size: Size, side: int) -> Size:
    """The size of the same shape whose longer side is at most `side`; never larger."""
    factor = min(1.0, side / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def shrink(pixels: np.ndarray, size: Size, half: np.ndarray | None = None) -> np.ndarray:
    """A small copy to look at, to hash or to seek in, (H, W, 3) to (width, height): nearly the mean of all pixels that
    `fit` takes, at a quarter of its time. By halves, which is what OpenCV is fast at.

    half: of the pixels, see `halved`, where several small copies are made of them.
    """
    while (times := _times(pixels, size)) >= 4 or (times >= 2 and _is_even(pixels)):
        pixels, half = halved(pixels) if half is None else half, None
    if times >= 2:
        # Here the row that is left over would make a difference.
        return halved(cv2.resize(pixels, (2 * size[0], 2 * size[1]), interpolation=cv2.INTER_LINEAR))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)


def _times(pixels: np.ndarray, size: Size) -> float:
    return min(pixels.shape[1] / size[0], pixels.shape[0] / size[1])


def _is_even(pixels: np.ndarray) -> bool:
    return pixels.shape[0] % 2 == pixels.shape[1] % 2 == 0


def halved(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) to (H // 2, W // 2, 3), the mean of four pixels each; a row or column that is left over is left out."""
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    return cv2.resize(pixels[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
