"""Windows of a map: all of a level's sizes on a grid, scored by what they hold and by what they cut."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import cv2
import numpy as np

Bounds = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the map, half-open."""
Sizes = tuple[tuple[int, int], ...]
STRIP = 2
"""Pixels on either side of a window's edge in which there should be nothing."""
REACH = 0.45
"""How far an edge may move, over the window's side."""
QUIET = 0.3
"""Share of what is cut at an edge below which a place beyond it is a better one."""
PROMISING = 1000
"""Windows, the best, among which those are sought that overlap little."""
BEYOND = 0.5


def window_sizes(room: tuple[int, int], sides: Sequence[float], aspects: Sequence[float], least: float) -> Sizes:
    """Width and height of the given mean sides and aspect ratios, each of at least `least` pixels, cut to the room."""
    shapes = ((side * aspect**0.5, side / aspect**0.5) for side in sides for aspect in aspects)
    return tuple(sorted({_within(room, shape, max(2, least)) for shape in shapes}))


def _within(room: tuple[int, int], shape: tuple[float, float], least: float) -> tuple[int, int]:
    width, height = (min(most, round(max(length, least))) for most, length in zip(room, shape, strict=True))
    return width, height


@lru_cache(maxsize=64)
def windows_in(bounds: Bounds, sizes: Sizes, step: int) -> np.ndarray:
    """(n, 4) boxes of the sizes, every `step` pixels in bounds, up to its edges. Photos of one shape share it."""
    return np.concatenate([_grid(bounds, size, step) for size in sizes])


def scores(values: np.ndarray, windows: np.ndarray, bounds: Bounds, area_cost: float, cut_cost: float) -> np.ndarray:
    """(n,): the share of the map's sum inside, less costs for the share of the bounds' area and for what is cut.

    Cut is what lies along a window's edges, as a share of what would lie along those of the bounds on average. At the
    photo's own edge nothing is cut, but that is no reason to lie there: what is beyond counts as BEYOND of the average.
    """
    x0, y0, x1, y1 = bounds
    table = cv2.integral(values, sdepth=cv2.CV_64F)
    room, mean = (x1 - x0) * (y1 - y0), max(float(values[y0:y1, x0:x1].mean()), 1e-9)
    height, width = values.shape
    outer = np.concatenate([windows[:, :2] - STRIP, windows[:, 2:] + STRIP], axis=1)
    outer = outer.clip(0, [width, height] * 2)
    inner = np.concatenate([windows[:, :2] + STRIP, windows[:, 2:] - STRIP], axis=1)
    inner[:, 2:] = np.maximum(inner[:, :2], inner[:, 2:])
    around = 4 * STRIP * (windows[:, 2:] - windows[:, :2]).sum(1)
    beyond = np.maximum(0, around - (areas(outer) - areas(inner)))
    strip = box_sums(table, outer) - box_sums(table, inner) + BEYOND * mean * beyond
    edge = 4 * STRIP * (x1 - x0 + y1 - y0)
    return (
        box_sums(table, windows) / (mean * room) - area_cost * areas(windows) / room - cut_cost * strip / (mean * edge)
    )


def quiet_edges(values: np.ndarray, window: Bounds, bounds: Bounds) -> Iterator[tuple[int, int]]:
    """Which edges had better be moved outwards, as places in the window, and where next to nothing is cut by them."""
    x0, y0, x1, y1 = window
    reach_x, reach_y = round(REACH * (x1 - x0)), round(REACH * (y1 - y0))
    rows, columns = values[:, x0:x1].max(1), values[y0:y1].max(0)
    # The top first: there are the heads.
    yield 1, _quiet(rows, y0, max(bounds[1], y0 - reach_y), -1)
    yield 0, _quiet(columns, x0, max(bounds[0], x0 - reach_x), -1)
    yield 2, _quiet(columns, x1 - 1, min(bounds[2], x1 + reach_x) - 1, 1) + 1
    yield 3, _quiet(rows, y1 - 1, min(bounds[3], y1 + reach_y) - 1, 1) + 1


def _quiet(profile: np.ndarray, edge: int, end: int, step: int) -> int:
    """From edge towards end: the first place with less than QUIET of what is at the edge, else the edge."""
    reached = profile[edge : end + step : step] if end + step >= 0 else profile[edge::step]
    found = np.flatnonzero(reached < QUIET * profile[edge])
    return edge + step * int(found[0]) if len(found) else edge


def shares(windows: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """(n,): the share of a box that lies in each window."""
    corner = np.maximum(windows[:, :2], box[:2])
    inside = np.prod(np.maximum(0, np.minimum(windows[:, 2:], box[2:]) - corner), axis=1)
    return inside / max((box[2] - box[0]) * (box[3] - box[1]), 1e-9)


def suppress_overlaps(windows: np.ndarray, values: np.ndarray, limit: int) -> list[int]:
    """Greedy non-maximum suppression: indices of up to `limit` windows, best first.

    windows: (n, 4), values: (n,). Of two windows that share more than half of the smaller one the better is taken.
    """
    kept: list[int] = []
    left = np.argpartition(-values, PROMISING)[:PROMISING] if len(values) > PROMISING else np.arange(len(values))
    left = left[np.lexsort((left, -values[left]))]
    while len(left) and len(kept) < limit:
        kept.append(int(left[0]))
        window, others = windows[left[0]], windows[left]
        sides = np.minimum(others[:, 2:], window[2:]) - np.maximum(others[:, :2], window[:2])
        shared = np.prod(np.maximum(0, sides), axis=1)
        left = left[shared <= 0.5 * np.minimum(areas(others), areas(window[None]))]
    return kept


def box_sums(table: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Sums of a map inside boxes, from its integral."""
    x0, y0, x1, y1 = boxes.T
    return table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]


def areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _grid(bounds: Bounds, size: tuple[int, int], step: int) -> np.ndarray:
    (x0, y0, x1, y1), (width, height) = bounds, size
    xs = np.unique(np.linspace(x0, x1 - width, 1 + -(-(x1 - x0 - width) // step)).astype(int))
    ys = np.unique(np.linspace(y0, y1 - height, 1 + -(-(y1 - y0 - height) // step)).astype(int))
    left, top = (grid.ravel() for grid in np.meshgrid(xs, ys))
    return np.stack([left, top, left + width, top + height], axis=1)
