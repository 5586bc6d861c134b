"""Stage 3 of Algorithm 1: the size of a detection's slice, and its frame in the photo."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from sga_kohya.hsd.cut.crop import Crop, discarded
from sga_kohya.hsd.cut.geometry import Box, Size, best_aspect_match, centred_box, framing_crop
from sga_kohya.hsd.detect import Detection
from sga_kohya.hsd.settings.config import LevelConfig

ROOM = 1.5
"""How much of the surroundings a level of its own scale takes in rather than enlarge a box, over the box's sides."""
CLOSE = 0.06
"""Aspect error above the least, from which on a size is not looked at: a little more than `best_aspect_match` takes."""


def adapt(detection: Detection, bounds: Box, level: LevelConfig, min_size: int, score: float | None) -> Crop:
    """Stage 3: discard, downsample, enlarge or cut at its own scale, then frame; in that order.

    The upscale that is needed is held against tau_up, the downscale that is available against tau_down. A crop that
    would need more than tau_up for the level's largest sizes takes a smaller one; it is discarded when none is small
    enough. A level of its own scale takes a size that needs no upscale where there is one, and the surroundings of a
    box that is a little too small for that.
    """
    box = _roomy(detection.box, bounds, min_size) if level.own_scale else detection.box
    own, room = box.size, bounds.size
    table = tabled(level.targets(min_size))
    scales = scales_to(table, own, room)
    reachable = scales <= level.tau_up
    if not reachable.any():
        size, scale = table.targets[int(scales.argmin())], float(scales.min())
        have = f"{box.width}x{box.height}"
        reason = f"too small: {have} takes {scale:.2f}x to reach {size[0]}x{size[1]}, above tau_up {level.tau_up:g}"
        return replace(discarded(detection, reason), score=score, scale=scale)
    unenlarged = reachable & (scales <= 1) if level.own_scale else reachable
    place = _best(own, table, unenlarged if unenlarged.any() else reachable)
    size, scale = table.targets[place], float(scales[place])
    frame = framing_crop(box, bounds, size)
    cut_only = frame.width >= size[0] and frame.height >= size[1] and 1 / scale <= level.tau_down
    if cut_only:
        frame, scale = centred_box(frame, frame, size), 1.0
    return Crop(level.name, frame, score, scale, size, detection.label, detection.found_by)


def _roomy(box: Box, bounds: Box, side: int) -> Box:
    """The box, grown around its middle towards sides of `side` pixels, up to ROOM times what they are."""
    width, height = (max(length, min(side, round(ROOM * length))) for length in box.size)
    return centred_box(box, bounds, (min(width, bounds.width), min(height, bounds.height)))


@dataclass(frozen=True)
class Table:
    """Target sizes as columns, for a photo asks for hundreds of them a dozen times. sizes: (2, n), widths and heights;
    ratio: (n,), the one over the other; slope: (n,), its logarithm."""

    targets: tuple[Size, ...]
    sizes: np.ndarray
    ratio: np.ndarray
    slope: np.ndarray


@lru_cache(maxsize=64)
def tabled(targets: tuple[Size, ...]) -> Table:
    sizes = np.array(targets, float).T.copy()
    ratio = sizes[0] / sizes[1]
    return Table(targets, sizes, ratio, np.log(ratio))


def scales_to(table: Table, size: Size, room: Size) -> np.ndarray:
    """(n,): by target, output pixels per source pixel of a box's framing crop, which becomes a slice of that size."""
    scales = table.sizes / framed(table, size, room)
    larger: np.ndarray = np.maximum(scales[0], scales[1])
    return larger


def framed(table: Table, size: Size, room: Size) -> np.ndarray:
    """(2, n): by target, width and height of the framing crop, as `framed_size` has it, of a box of `size` in bounds of
    the size `room`."""
    frame = np.empty_like(table.sizes)
    np.maximum(size[0], size[1] * table.ratio, out=frame[0])
    np.maximum(size[1], size[0] / table.ratio, out=frame[1])
    frame *= np.minimum(1.0, np.minimum(room[0] / frame[0], room[1] / frame[1]))
    return np.maximum(1, np.rint(frame, out=frame), out=frame)


def _best(size: Size, table: Table, usable: np.ndarray) -> int:
    """The place of the best aspect match among those that are usable, (n,) bool."""
    places = np.flatnonzero(usable)
    errors = np.abs(table.slope[places] - math.log(size[0] / size[1]))
    close = {table.targets[place]: place for place in places[errors <= errors.min() + CLOSE].tolist()}
    return close[best_aspect_match(size, list(close))]
