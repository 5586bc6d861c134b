"""Where in a photo its subject is, and where in the subject its head: two maps, without any model.

Tuned and judged on photos (`tests/bench/crops.py`): what lies inside heads and not elsewhere in a subject is first of
all that it is above (area under the curve 0.83), then blobs of the size of eyes and noses (0.70); detail alone is blind
(0.55).
"""

from dataclasses import dataclass

import cv2
import numpy as np

WEIGHTS = {"unlike_border": 1.0, "contrast": 0.6, "detail": 1.2, "detail_unlike_border": 2.0, "skin": 0.5}
"""Of the maps in a subject's sum."""
CENTRE = 0.3
"""Share of the prior for the middle, where photographers put what they mean to show."""
LOWEST_COVARIANCE = 20.0
"""Added to the variance of colours at a border, in squared Lab units: an even wall is no reason to see rifts in it."""


@dataclass(frozen=True)
class Maps:
    """(h, w) float32 each, >= 0. subject: saliency. blobs: in [0, 1], what eyes and noses are."""

    subject: np.ndarray
    blobs: np.ndarray


def make_maps(picture: np.ndarray) -> Maps:
    """picture: (H, W, 3) RGB uint8, some hundred pixels wide. The maps are half as wide and high."""
    lab = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    size = tuple(max(1, length // 2) for length in picture.shape[1::-1])
    small = cv2.resize(lab, size, interpolation=cv2.INTER_AREA)
    smooth = blur(small, max(size) / 80)
    detail = fine_detail(lab[..., 0], size)
    apart = unlike_border(smooth)
    parts = {
        "unlike_border": apart,
        "contrast": to_unit(_lengths(smooth - broad_blur(small, max(size) / 6))),
        "detail": detail,
        "detail_unlike_border": detail * apart,
        "skin": skin(cv2.resize(picture, size, interpolation=cv2.INTER_AREA)),
    }
    subject = sum(weight * parts[name] for name, weight in WEIGHTS.items()) * centre_prior(size)
    return Maps(np.asarray(subject, np.float32), blobs(lab[..., 0], size))


def unlike_border(lab: np.ndarray) -> np.ndarray:
    """(h, w, 3) to (h, w) in [0, 1]: how far a colour is from those along the photo's four sides.

    The side that is most unlike does not count: a subject often touches one.
    """
    depth = max(3, round(0.04 * max(lab.shape[:2])))
    sides = (lab[:depth], lab[-depth:], lab[:, :depth], lab[:, -depth:])
    distances = [_mahalanobis(lab, side.reshape(-1, 3)) for side in sides]
    relative = np.stack([distance / max(float(distance.max()), 1e-6) for distance in distances])
    return to_unit(relative.sum(0) - relative.max(0))


def fine_detail(lightness: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What is in focus: the finest differences, those of the sharpest edges cut off, pooled. In [0, 1]."""
    fine = cv2.resize(np.abs(lightness - blur(lightness, 1.0)), size, interpolation=cv2.INTER_AREA)
    return to_unit(blur(np.minimum(fine, percentile(fine, 97)), max(size) / 50))


def skin(picture: np.ndarray) -> np.ndarray:
    """(h, w, 3) RGB uint8 to (h, w) in [0, 1]: closeness of the chroma to that of skin, at any lightness.

    Skin of every tone differs mostly in lightness; its chroma lies on a short arc of red-yellow, which wood and sand
    share. Only what exceeds the photo's mean counts, so that a photo full of wood decides nothing by it.
    """
    _, cr, cb = np.moveaxis(cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb).astype(np.float32), 2, 0)
    likeness = blur(np.exp(-(((cr - 150) / 10) ** 2 + ((cb - 112) / 10) ** 2) / 2), max(picture.shape) / 64)
    return to_unit(np.maximum(0, likeness - likeness.mean()))


def blobs(lightness: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Dark and bright spots of two sizes, by the determinant of the Hessian; edges have none."""
    found = 0.25 * _hessian(lightness, 4.0, size) + 0.75 * _hessian(lightness, 2.0, size)
    return to_unit(blur(found, max(size) / 50))


def _hessian(lightness: np.ndarray, sigma: float, size: tuple[int, int]) -> np.ndarray:
    smooth = blur(lightness, sigma)
    xx, yy, xy = (cv2.Sobel(smooth, cv2.CV_32F, *order) for order in ((2, 0), (0, 2), (1, 1)))
    return to_unit(cv2.resize(np.sqrt(np.maximum(0, xx * yy - xy * xy)), size, interpolation=cv2.INTER_AREA))


def _mahalanobis(lab: np.ndarray, colours: np.ndarray) -> np.ndarray:
    covariance = np.cov(colours.T) + LOWEST_COVARIANCE * np.eye(3)
    to_unit_variance = np.linalg.cholesky(np.linalg.inv(covariance)).T
    return _lengths(cv2.transform(lab - colours.mean(0), to_unit_variance))


def _lengths(vectors: np.ndarray) -> np.ndarray:
    """(h, w, 3) to (h, w)."""
    lengths: np.ndarray = np.sqrt(np.einsum("hwc,hwc->hw", vectors, vectors))
    return lengths


def to_unit(values: np.ndarray) -> np.ndarray:
    """Scaled to [0, 1], a few outliers cut off; all 0 where there is only rounding error to amplify."""
    high = percentile(values, 99.5)
    return np.clip(values / high, 0, 1) if high > 1e-3 else np.zeros_like(values)


def percentile(values: np.ndarray, share: float) -> float:
    """By every fourth value: maps are smooth, and sorting them is what takes time."""
    return float(np.percentile(values[::2, ::2], share))


def blur(values: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(values, (0, 0), sigma)


def broad_blur(values: np.ndarray, sigma: float) -> np.ndarray:
    """Of a quarter of the size and back: a wide kernel is slow, and what it leaves has no detail."""
    height, width = values.shape[:2]
    small = cv2.resize(values, (max(1, width // 4), max(1, height // 4)), interpolation=cv2.INTER_AREA)
    return cv2.resize(blur(small, sigma / 4), (width, height), interpolation=cv2.INTER_LINEAR)


def centre_prior(size: tuple[int, int]) -> np.ndarray:
    x, y = (np.linspace(-1, 1, length, dtype=np.float32) for length in size)
    return 1 - CENTRE + CENTRE * np.exp(-(x[None, :] ** 2 + y[:, None] ** 2) / 0.7)
