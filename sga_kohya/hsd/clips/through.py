"""One box through a clip: what a detector finds in several frames of it, taken together.

A detector that looks through time is a `Detector` like any other, so that Algorithm 1 cuts clips as it cuts photos.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np

from sga_kohya.hsd.cut.geometry import Box, iou
from sga_kohya.hsd.detect import Detection, Detector, View

STRAYS = 0.5
"""How far an edge may be from where its neighbours in time lead to, over the box's side, and still be believed."""
APART = -2.0
"""How far apart, in its own sides, a thing may be in two frames that follow each other."""
OFTEN = 0.5
"""Share of the frames in which a thing has to be found."""


@dataclass
class Track:
    """One thing through time: place of the frame -> where it is there."""

    found: dict[int, Detection] = field(default_factory=dict)

    @property
    def last(self) -> Detection:
        return self.found[max(self.found)]


class Through:
    """Finds in the view of one frame what the detector finds in the same box of all `pictures`, each as one box that
    holds it in all of them. pictures: (H, W, 3) RGB uint8 by time, all of one size."""

    def __init__(self, detector: Detector, pictures: Mapping[int, np.ndarray]) -> None:
        self.detector, self.pictures, self.name = (
            detector,
            [pictures[place] for place in sorted(pictures)],
            detector.name,
        )

    def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
        return [self._through(view, level) for view in views]

    def _through(self, view: View, level: str) -> list[Detection]:
        box = view.box
        frames = [
            View(picture[box.y0 : box.y1, box.x0 : box.x1], view.source, box, view.photo_size)
            for picture in self.pictures
        ]
        found = tracks(self.detector.detect(frames, level))
        least = max(1, round(OFTEN * len(frames)))
        steady = [taken_together(track, len(frames)) for track in found if len(track.found) >= least]
        return sorted(steady, key=lambda detection: -detection.score)


def tracks(frames: Sequence[Sequence[Detection]]) -> list[Track]:
    """Which detections are one thing: of the same label, and where it was last, or near it, the best pairs first.

    frames: in order of time.
    """
    found: list[Track] = []
    for place, detections in enumerate(frames):
        pairs = [(likeness(track.last, detection), track, detection) for track in found for detection in detections]
        left = list(detections)
        for alike, track, detection in sorted(pairs, key=lambda pair: -pair[0]):
            if alike > APART and place not in track.found and any(detection is other for other in left):
                track.found[place] = detection
                left = [other for other in left if other is not detection]
        found += [Track({place: detection}) for detection in left]
    return found


def likeness(a: Detection, b: Detection) -> float:
    """Of two boxes of frames that follow each other: their IoU; of those that do not meet how far apart their middles
    are, below 0, over their mean side. Of different labels nothing is alike."""
    if a.label != b.label:
        return -math.inf
    shared = iou(a.box, b.box)
    if shared:
        return shared
    (ax, ay), (bx, by) = middle(a.box), middle(b.box)
    sides = (*a.box.size, *b.box.size)
    return -max(abs(ax - bx), abs(ay - by)) / (sum(sides) / len(sides))


def middle(box: Box) -> tuple[float, float]:
    return (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2


def taken_together(track: Track, frames: int) -> Detection:
    """The box that holds the thing in every frame in which its place is believed, scored over all frames."""
    places, boxes = zip(*sorted((place, found.box) for place, found in track.found.items()), strict=True)
    edges = np.array([box.as_list() for box in boxes], float)
    kept = believed(np.array(places, float), edges)
    smooth = smoothed(edges[kept])
    near, far = np.floor(smooth[:, :2].min(0)).astype(int), np.ceil(smooth[:, 2:].max(0)).astype(int)
    best = max(track.found.values(), key=lambda found: found.score)
    box = Box(*map(int, near), *map(int, far))
    score = sum(found.score for found in track.found.values()) / frames
    return replace(best, box=box, score=score, mask=None)


def believed(places: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Which boxes are where their neighbours in time lead to: one after the other those go without which the rest agree
    best, until it does.

    places: (N,) times. edges: (N, 4). Returns indices; more than half stay, as do all where there are two or fewer.
    """
    at = np.arange(len(places))
    sides = np.array([median(edges[:, 2] - edges[:, 0]), median(edges[:, 3] - edges[:, 1])] * 2)

    def unrest(at: np.ndarray) -> float:
        away = [np.abs(edges[i] - led_to(i, at[at != i], places, edges)) / sides for i in at]
        return float(np.max(away))

    while len(at) > max(2, len(places) // 2 + 1) and unrest(at) > STRAYS:
        at = min((np.delete(at, i) for i in range(len(at))), key=unrest)
    return at


def led_to(i: int, others: np.ndarray, places: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Where the two nearest in time lead to: between them, or on from them at an end. others: one index or more."""
    if len(others) < 2:
        alone: np.ndarray = edges[others[0]]
        return alone
    before, after = others[others < i], others[others > i]
    a, b = (before[-1], after[0]) if len(before) and len(after) else (before[-2:] if len(before) else after[:2])
    share = (places[i] - places[a]) / (places[b] - places[a])
    found: np.ndarray = edges[a] + share * (edges[b] - edges[a])
    return found


def smoothed(edges: np.ndarray) -> np.ndarray:
    """(N, 4): each a quarter of its neighbours, which halves a detector's jitter and leaves even motion as it is."""
    if len(edges) < 3:
        return edges
    middle = (edges[:-2] + 2 * edges[1:-1] + edges[2:]) / 4
    return np.vstack([edges[:1], middle, edges[-1:]])
