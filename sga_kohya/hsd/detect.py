"""What a detector is, and those there are."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from sga_kohya.errors import SgaError
from sga_kohya.hsd.cut.geometry import Box, Size
from sga_kohya.hsd.registry import Registry, called


@dataclass(frozen=True)
class Detection:
    """A box in pixels of the view it was found in, its score in [0, 1], the level it was sought for, and `label`: the
    class or phrase it was found as, "" where the detector knows none. mask: (height, width) uint8 of the box, 255 where
    the thing itself is; None where the detector draws none, or nobody wants it. found_by: which of several detectors.
    """

    box: Box
    score: float
    level: str
    label: str = ""
    mask: np.ndarray | None = field(default=None, compare=False, repr=False)
    found_by: str = ""


@dataclass(frozen=True, eq=False)
class View:
    """Where to look: a photo or one region of it.

    pixels: (H, W, 3) RGB uint8. source: the photo below PHOTOS, with '/'. box: the view, and photo_size: the whole, in
    pixels of the upright photo; H and W are those of the box.
    """

    pixels: np.ndarray
    source: str
    box: Box
    photo_size: Size

    @property
    def size(self) -> Size:
        return self.box.size


UNANSWERED = "the detector gave no answer, the next run asks again"


class Detector(Protocol):
    """Detect of Algorithm 1, batched.

    One that can draw masks also has `draws_masks`, whether it does in this run; see `Options.masks`.
    One that can fail at a single photo also has `unanswered`, the set of those photos' sources: they are counted and
    named, and not finished.
    One that finds other things on another machine by the same options and files also has `means`; see `means_of`.
    """

    name: str
    """Recorded in the manifest."""

    def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
        """Returns one list per view, best first. The views' sizes may differ.

        A view's result must not depend on the others of the batch: batches change from run to run.
        """
        ...


def means_of(detector: Detector) -> str:
    """What a detector goes by that neither its options nor files that they name tell, "" for the usual. A change of it
    is one of the settings: what was cut with other means is cut anew."""
    return str(getattr(detector, "means", ""))


class FunctionDetector:
    """One's own function of a View and a level's name to the Detections there, in any order."""

    def __init__(self, name: str, function: Callable[[View, str], Iterable[Detection]]) -> None:
        self.name, self._function = name, function

    def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
        return [self._found(view, level) for view in views]

    def _found(self, view: View, level: str) -> list[Detection]:
        who = f"detector {self.name} fails at {view.source}"
        found = list(called(who, lambda: list(self._function(view, level))))
        for detection in found:
            if not (isinstance(detection, Detection) and detection.box.inside(Box.whole(view.size))):
                raise SgaError(f"{who}: {detection!r:.120}: give Detections with boxes inside the view, {view.size}")
        return sorted(found, key=lambda detection: -detection.score)


DETECTORS: Registry[Detector] = Registry(
    "detector",
    "sga_kohya.hsd.detectors",
    ("heuristic", "yolo", "onnx", "rtdetr", "grounding-dino", "vlm", "boxes"),
    FunctionDetector,
)
register_detector = DETECTORS.register
