"""The detector itself: for each level the windows that hold most of what its map shows.

It knows no classes and needs no weights. It is a default to start from, not a substitute for a trained detector: its
slices are marked "heuristic" in the manifest so that they can be told apart later.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from sga_kohya.hsd.cut.geometry import Box
from sga_kohya.hsd.cut.nesting import widened
from sga_kohya.hsd.detect import Detection, View
from sga_kohya.hsd.detectors.heuristic.faces import face_finder
from sga_kohya.hsd.detectors.heuristic.heads import FaceFinder, Heads
from sga_kohya.hsd.detectors.heuristic.maps import Maps, make_maps
from sga_kohya.hsd.detectors.heuristic.windows import (
    Bounds,
    areas,
    quiet_edges,
    scores,
    shares,
    suppress_overlaps,
    window_sizes,
    windows_in,
)
from sga_kohya.hsd.detectors.options import Options
from sga_kohya.hsd.photos.scaling import fitted, shrink
from sga_kohya.kit.values import file, number

WORKING_SIDE = 320
"""Long side of the copy that is looked at; its maps have half of that: subjects, not grain."""
SHRINK = 0.58
"""Side of a level's windows over that of the level above: 0.58 of the region for meso, 0.34 for micro."""
SPREAD = (0.68, 0.84, 1.0, 1.1, 1.2)
"""Sides of a level's windows over the level's own."""
ASPECTS = (0.6, 0.75, 1.0, 1.33, 1.67)
STEP = 6
"""Pixels of the map between windows of the first level that is sought; half of it for those inside of it."""
INNER = 1.25
"""Least side of a window over that of the finer windows inside of it."""
MOST, MOST_DETAIL = 0.75, 0.65
"""Share of the view, and for finer levels of the window around, that one may cover by having its edges moved: no two
levels should show the same."""
CANDIDATES = 8
SUBJECT = {"floor": 45, "area": 0.9, "cut": 0.6, "heads": 3.0}
DETAIL = {"floor": 56, "area": 0.55, "cut": 0.8, "above": 1.2}
"""floor: percentile of the map that counts as nothing. area, cut: costs. heads: how much a likely head adds to the
subject around it. above: how fast that falls from the subject's top to its bottom."""
A_HEAD, HEADLESS = 0.45, 0.5
"""What a whole head adds to a window's score, where it is as high as the window, and what a window without any loses
where there are some; one that is cut costs 1."""
WHOLE = 0.97
"""Share of a head inside a window from which on it is whole."""
AROUND_HEAD = 0.1
"""Margin of a head that is a slice of its own."""
BESIDE_A_CUT = 0.99
"""Score of a head whose slice would cut another's; of any other 1. Windows are below."""
MIDDLE = 0.25
"""Share of a head that is more than hair, on either side."""
STEEP = 4.0
"""How fast a window's score grows with what it is worth: 0.5 where that is nothing, 0.69 at 0.2."""
LEAST = 0.65
"""Score of a part of the subject below which none is taken, if nobody says otherwise: the wrong ones are there."""
SMALL_HEAD = 0.06
"""Height of a head over that of a window below which nobody minds if it is cut."""
NO_FACES = "no faces"
"""Means of a detector that has nothing which finds them, as with OpenCV 5 and no model; see detect.means_of."""


Edges = tuple[float, ...]


@dataclass(frozen=True)
class Look:
    """What is known of a view. heads, likely: (x0, y0, x1, y1) in pixels of the maps; heads as `boxes`, in those of
    the view.

    windows: by a level's rank, those in pixels of the maps with their scores, once they have been found.
    """

    maps: Maps
    heads: Sequence[Edges]
    likely: Sequence[Edges]
    boxes: Sequence[Box]
    zoom: tuple[float, float]
    windows: dict[int, list[tuple[Bounds, float]]] = field(default_factory=dict)


class HeuristicDetector:
    """Windows that hold a subject, and inside of it its head or finest part. Deterministic."""

    name = "heuristic"

    def __init__(
        self,
        levels: Sequence[str],
        smallest: Mapping[str, int] | None = None,
        thresholds: Mapping[str, float] | None = None,
        faces: FaceFinder | None = None,
    ) -> None:
        """levels: coarse to fine. smallest: sides in pixels below which a level's windows are of no use.

        thresholds: by level, the least score of a window. faces: None does not look for any.
        """
        self._rank = {level: rank for rank, level in enumerate(levels)}
        self._smallest = _with_room([dict(smallest or {}).get(level, 0) for level in levels])
        self._thresholds = dict(thresholds or {})
        self._faces = faces
        self.means = "" if faces else NO_FACES
        self._looks: WeakKeyDictionary[View, Look] = WeakKeyDictionary()

    def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
        """Heads where it is the finest level, then up to CANDIDATES windows per view that overlap little.

        Scores are in [0, 1]: what a window shows, less what it cuts. A view without any saliency (one flat colour)
        yields none.
        """
        # The levels of one batch come one after the other: what is known of its views serves them all, and goes with
        # them, for a view holds on to the pixels of its photo.
        for view in views:
            if view not in self._looks:
                self._looks[view] = self._look(view)
        return [self._found(view, self._looks[view], level) for view in views]

    def _look(self, view: View) -> Look:
        picture = shrink(view.pixels, fitted(view.size, WORKING_SIDE))
        maps = make_maps(picture)
        found = self._faces.heads(picture, view.pixels) if self._faces else Heads()
        height, width = maps.subject.shape
        zoom = view.size[0] / width, view.size[1] / height
        # One that fills the view is what the view shows: no window holds it, and all of them cut it.
        room = MOST * view.size[0] * view.size[1]
        sure, likely = ([head for head in heads if head.area <= room] for heads in (found.sure, found.likely))
        heads, maybe = ([_on_map(head, zoom) for head in boxes] for boxes in (sure, likely))
        return Look(maps, heads, maybe, sure, zoom)

    def _found(self, view: View, look: Look, level: str) -> list[Detection]:
        if look.maps.subject.max() <= 0:
            return []
        rank, least = self._rank[level], self._thresholds.get(level, 0)
        boxes = look.boxes if rank == len(self._rank) - 1 else []
        slices = [widened(head, AROUND_HEAD, Box.whole(view.size)) for head in boxes]
        heads = [Detection(box, BESIDE_A_CUT if _cuts_one(box, look) else 1.0, level) for box in slices]
        windows = [
            Detection(_scaled(window, look.zoom, view.size), score_of(value), level)
            for window, value in self._windows(look, rank)
        ]
        return heads + [window for window in windows if window.score >= least]

    def _windows(self, look: Look, rank: int) -> list[tuple[Bounds, float]]:
        """Those of a level, best first: of a finer one inside the best of the one above."""
        if rank not in look.windows:
            height, width = look.maps.subject.shape
            bounds = self._windows(look, rank - 1)[0][0] if rank > 1 else (0, 0, width, height)
            look.windows[rank] = self._best(look, rank, bounds)
        return look.windows[rank]

    def _best(self, look: Look, rank: int, bounds: Bounds) -> list[tuple[Bounds, float]]:
        settings = SUBJECT if rank <= 1 else DETAIL
        values = subject_map(look.maps) if rank <= 1 else detail_map(look.maps, bounds)
        side = SHRINK**rank * values.size**0.5
        room = (bounds[2] - bounds[0], bounds[3] - bounds[1])
        least = self._smallest[rank] / min(look.zoom)
        sizes = window_sizes(room, [side * spread for spread in SPREAD], ASPECTS, least)
        windows = windows_in(bounds, sizes, STEP if rank <= 1 else STEP // 2)
        found = scores(values, windows, bounds, settings["area"], settings["cut"])
        found += head_bonus(windows, look.heads, look.likely)
        subject = above_floor(look.maps.subject, SUBJECT["floor"])
        chosen = suppress_overlaps(windows, found, CANDIDATES)
        most = (MOST if rank <= 1 else MOST_DETAIL) * room[0] * room[1]
        return [(_settled(subject, windows[i], bounds, most, look), float(found[i])) for i in chosen]


def _settled(subject: np.ndarray, window: np.ndarray, bounds: Bounds, most: float, look: Look) -> Bounds:
    """Its edges moved to where they cut less, one by one, unless that cuts a head or makes it larger than `most`."""
    x0, y0, x1, y1 = map(int, window)
    settled: Bounds = (x0, y0, x1, y1)
    for edge, place in quiet_edges(subject, settled, bounds):
        if place == settled[edge]:
            continue
        moved = np.array(settled)
        moved[edge] = place
        before, after = head_bonus(np.stack([settled, moved]), look.heads, look.likely)
        if areas(moved[None])[0] <= most and after >= before - A_HEAD:
            x0, y0, x1, y1 = map(int, moved)
            settled = (x0, y0, x1, y1)
    return settled


def subject_map(maps: Maps) -> np.ndarray:
    """What stands out, more so where it may be a head."""
    subject = above_floor(maps.subject, SUBJECT["floor"])
    heads = headness(maps)
    return subject * (1 + SUBJECT["heads"] * heads / max(float(heads.max()), 1e-6))


def detail_map(maps: Maps, bounds: Bounds) -> np.ndarray:
    """What may be a head, or is the finest part of the subject, inside bounds; 0 outside."""
    x0, y0, x1, y1 = bounds
    values = np.zeros_like(maps.subject)
    part = (headness(maps) * _falling(maps, DETAIL["above"]))[y0:y1, x0:x1]
    values[y0:y1, x0:x1] = above_floor(part, DETAIL["floor"])
    return values


def headness(maps: Maps) -> np.ndarray:
    return (maps.blobs + 0.25) * maps.subject**0.2


def _falling(maps: Maps, speed: float) -> np.ndarray:
    """(h, 1): 1 where the subject begins, falling to its bottom, and less above it, where there is sky."""
    rows = above_floor(maps.subject, 50).sum(1)
    mass = np.cumsum(rows) / max(float(rows.sum()), 1e-6)
    top, bottom = np.searchsorted(mass, (0.04, 0.96))
    depth = np.clip((np.arange(len(rows)) - top) / max(1, bottom - top), -1, 1)
    return np.exp(-speed * np.where(depth < 0, -depth / 2, depth))[:, None].astype(np.float32)


def above_floor(values: np.ndarray, percentile: float) -> np.ndarray:
    return np.maximum(0, values - np.percentile(values, percentile))


def head_bonus(windows: np.ndarray, heads: Sequence[Edges], likely: Sequence[Edges] = ()) -> np.ndarray:
    """(n,): what the heads that are whole in a window add to its score, less what those cost that are cut by it.

    likely: what may be heads. They add nothing, and cost as much where they are cut.
    """
    bonus, whole = np.zeros(len(windows)), np.zeros(len(windows), bool)
    for head in heads:
        inside, relative = shares(windows, head), (head[3] - head[1]) / (windows[:, 3] - windows[:, 1])
        bonus += np.where(inside > WHOLE, A_HEAD * np.sqrt(np.minimum(1, relative)), 0)
        whole |= inside > WHOLE
    for head in (*heads, *likely):
        bonus -= cut(windows, head)
    return bonus - (HEADLESS * ~whole if heads else 0)


def cut(windows: np.ndarray, head: Edges) -> np.ndarray:
    """(n,) bool: which windows cut a head that is not too small to be noticed."""
    inside, relative = shares(windows, head), (head[3] - head[1]) / (windows[:, 3] - windows[:, 1])
    return (inside > 1 - WHOLE) & (inside <= WHOLE) & (relative > SMALL_HEAD)


def score_of(value: float) -> float:
    return round(1 / (1 + float(np.exp(-STEEP * value))), 4)


def _cuts_one(box: Box, look: Look) -> bool:
    """Whether a box cuts a head through its middle; of a neighbour's hair there is often a little."""
    window = np.array([_on_map(box, look.zoom)])
    return any(MIDDLE < shares(window, head)[0] < 1 - MIDDLE for head in (*look.heads, *look.likely))


def _on_map(box: Box, zoom: tuple[float, float]) -> Edges:
    return box.x0 / zoom[0], box.y0 / zoom[1], box.x1 / zoom[0], box.y1 / zoom[1]


def _with_room(smallest: Sequence[float]) -> list[float]:
    """Sides by level, coarse to fine, such that each has room for the next."""
    sides = list(smallest)
    for rank in reversed(range(len(sides) - 1)):
        sides[rank] = max(sides[rank], INNER * sides[rank + 1])
    return sides


def _scaled(window: Bounds, zoom: tuple[float, float], size: tuple[int, int]) -> Box:
    x0, x1 = (round(x * zoom[0]) for x in window[::2])
    y0, y1 = (round(y * zoom[1]) for y in window[1::2])
    x0, y0 = min(x0, size[0] - 1), min(y0, size[1] - 1)
    return Box(x0, y0, min(size[0], max(x0 + 1, x1)), min(size[1], max(y0 + 1, y1)))


def create(options: Options, photos: Path) -> HeuristicDetector:
    # A whole subject is always worth a slice; of its parts there may be none that stands out.
    thresholds = options.per_level("threshold", number(0, 1), lambda level: LEAST * (options.levels.index(level) > 1))
    model = options.read("face_model", file(".onnx"))
    options.finish()
    return HeuristicDetector(options.levels, options.smallest, thresholds, face_finder(model))
