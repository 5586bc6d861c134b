"""The model-free detector: saliency by colour, contrast and detail, then the windows that hold most of it.

It knows no classes and needs no weights. It is a default to start from, not a substitute for a trained detector: its
slices are marked "heuristic" in the manifest so that they can be told apart later.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from sga_kohya.hsd.cut.geometry import Box, Size
from sga_kohya.hsd.detect import Detection, View
from sga_kohya.hsd.detectors.options import Options

WORKING_SIDE = 128
"""Saliency is computed on a copy with this long side in pixels: subjects, not grain, and milliseconds per photo."""

LEVEL_SHRINK = 0.55
"""Side of a level's windows over that of the level above: 0.55 of the region for meso, 0.3 for micro."""

ASPECTS = (3 / 4, 1.0, 4 / 3)
SCALES = (0.85, 1.0, 1.2)
CANDIDATES = 8


class HeuristicDetector:
    """Best-density windows of a saliency map, at a scale that depends on the level. Deterministic."""

    name = "heuristic"

    def __init__(self, levels: Sequence[str]) -> None:
        """levels: coarse to fine; the i-th is sought at LEVEL_SHRINK**i of the image's mean side."""
        self.scales = {level: LEVEL_SHRINK**i for i, level in enumerate(levels)}
        self.depth = {level: i / max(1, len(levels) - 1) for i, level in enumerate(levels)}

    def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
        """Up to CANDIDATES windows per view that overlap little; scores are saliency relative to the best, in [0, 1].

        A view without any saliency (one flat colour) yields none.
        """
        return [self._detect_one(view.pixels, level) for view in views]

    def _detect_one(self, image: np.ndarray, level: str) -> list[Detection]:
        small = shrink(image, WORKING_SIDE)
        saliency = saliency_map(small, self.depth[level])
        if saliency.max() <= 0:
            return []
        windows, scores = score_windows(saliency, self.scales[level])
        height, width = image.shape[:2]
        zoom = (width / small.shape[1], height / small.shape[0])
        return [
            Detection(_scaled(windows[i], zoom, (width, height)), round(float(scores[i]), 4), level)
            for i in suppress_overlaps(windows, scores, CANDIDATES)
        ]


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """(H, W, 3) uint8, averaged down so that the longer side is at most `side`."""
    factor = min(1.0, side / max(image.shape[:2]))
    size = tuple(max(1, round(length * factor)) for length in image.shape[1::-1])
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def saliency_map(small: np.ndarray, depth: float) -> np.ndarray:
    """small: (h, w, 3) RGB uint8. depth: 0 for the coarsest level to 1 for the finest. Returns (h, w) float32, >= 0.

    A weighted sum of four maps, each scaled to a mean of 1: colours far from the photo's average, regions unlike their
    surroundings, fine detail, whose share grows with depth, and skin; times a prior for the middle, where
    photographers put what they mean to show.
    """
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    side = max(small.shape[:2])
    smooth = cv2.GaussianBlur(lab, (0, 0), side / 64)
    rarity = _distance(smooth, lab.mean((0, 1)))
    contrast = _distance(smooth, cv2.GaussianBlur(lab, (0, 0), side / 8))
    detail = cv2.GaussianBlur(_distance(lab, cv2.GaussianBlur(lab, (0, 0), 1.5)), (0, 0), side / 64)
    skin = cv2.GaussianBlur(skin_likeness(small), (0, 0), side / 64)
    skin = np.maximum(0, skin - skin.mean())
    weights = (1.0, 1.0, 0.5 + depth, 0.5)
    parts = (rarity, contrast, detail, skin)
    combined = sum(weight * _unit_mean(part) for weight, part in zip(weights, parts, strict=True))
    return np.asarray(combined * _centre_prior(small.shape[1::-1]), dtype=np.float32)


def skin_likeness(small: np.ndarray) -> np.ndarray:
    """(h, w, 3) RGB uint8 to (h, w) float32 in [0, 1]: closeness of the chroma to that of skin, at any lightness.

    Skin of every tone differs mostly in lightness; its chroma lies on a short arc of red-yellow, which wood and sand
    share. Only what exceeds the photo's mean counts, so that a photo full of wood decides nothing by it.
    """
    _, cr, cb = np.moveaxis(cv2.cvtColor(small, cv2.COLOR_RGB2YCrCb).astype(np.float32), 2, 0)
    return np.exp(-(((cr - 150) / 10) ** 2 + ((cb - 112) / 10) ** 2) / 2)


def score_windows(saliency: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Every window of the level's sizes on a grid. Returns boxes (n, 4) in map pixels and scores (n,), at most 1.

    The score is the mean saliency inside minus half of that around it, and half of that just above it: a window off its
    subject, or too small for it, leaves saliency around it, and one that cuts a head leaves it above.
    """
    height, width = saliency.shape
    table = cv2.integral(saliency, sdepth=cv2.CV_64F)
    boxes = np.concatenate([_grid(width, height, *size) for size in _window_sizes(width, height, scale)])
    margin = np.maximum(1, (boxes[:, 2:] - boxes[:, :2]) // 4)
    around = np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin], axis=1).clip(0, [width, height] * 2)
    above = np.stack([boxes[:, 0], around[:, 1], boxes[:, 2], boxes[:, 1]], axis=1)
    inner, outer, top = (_box_sums(table, part) for part in (boxes, around, above))
    beyond = [
        _mean(sums, areas, saliency)
        for sums, areas in ((outer - inner, _areas(around) - _areas(boxes)), (top, _areas(above)))
    ]
    score = inner / _areas(boxes) - 0.5 * sum(beyond)
    return boxes, score / max(score.max(), 1e-9)


def suppress_overlaps(boxes: np.ndarray, scores: np.ndarray, limit: int) -> list[int]:
    """Greedy non-maximum suppression: indices of up to `limit` boxes with positive scores, best first.

    boxes: (n, 4), scores: (n,). Of two boxes that share more than half of the smaller one the better is taken.
    """
    area, alive = _areas(boxes), scores > 0
    kept: list[int] = []
    while alive.any() and len(kept) < limit:
        best = int(np.argmax(np.where(alive, scores, -np.inf)))
        kept.append(best)
        corner = np.maximum(boxes[:, :2], boxes[best, :2])
        shared = np.prod(np.maximum(0, np.minimum(boxes[:, 2:], boxes[best, 2:]) - corner), axis=1)
        alive &= shared <= 0.5 * np.minimum(area, area[best])
    return kept


def _window_sizes(width: int, height: int, scale: float) -> list[Size]:
    sizes = set()
    for step in SCALES:
        for aspect in ASPECTS:
            side = step * scale * (width * height) ** 0.5
            w, h = round(side * aspect**0.5), round(side / aspect**0.5)
            sizes.add((min(width, max(2, w)), min(height, max(2, h))))
    return sorted(sizes)


def _grid(width: int, height: int, w: int, h: int) -> np.ndarray:
    xs = np.unique(np.linspace(0, width - w, 1 + (width - w) // 2).astype(int))
    ys = np.unique(np.linspace(0, height - h, 1 + (height - h) // 2).astype(int))
    x0, y0 = (grid.ravel() for grid in np.meshgrid(xs, ys))
    return np.stack([x0, y0, x0 + w, y0 + h], axis=1)


def _box_sums(table: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    x0, y0, x1, y1 = boxes.T
    return table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]


def _mean(sums: np.ndarray, areas: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """Beyond the photo's edge there is nothing to see: the map's own mean, so that no window gains by lying there."""
    return np.where(areas > 0, sums / np.maximum(areas, 1), saliency.mean())


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a - b, axis=2)


def _unit_mean(values: np.ndarray) -> np.ndarray:
    mean = float(values.mean())
    # Below this there is only rounding error to amplify.
    return values / mean if mean > 0.01 else np.zeros_like(values)


def _centre_prior(size: Size) -> np.ndarray:
    x, y = (np.linspace(-1, 1, length) for length in size)
    return np.exp(-(x[None, :] ** 2 + y[:, None] ** 2) / 1.5)


def _scaled(window: np.ndarray, zoom: tuple[float, float], size: Size) -> Box:
    x0, x1 = (round(float(x) * zoom[0]) for x in window[[0, 2]])
    y0, y1 = (round(float(y) * zoom[1]) for y in window[[1, 3]])
    x0, y0 = min(x0, size[0] - 1), min(y0, size[1] - 1)
    return Box(x0, y0, min(size[0], max(x0 + 1, x1)), min(size[1], max(y0 + 1, y1)))


def create(options: Options, photos: Path) -> HeuristicDetector:
    options.finish()  # it has none
    return HeuristicDetector(options.levels)
