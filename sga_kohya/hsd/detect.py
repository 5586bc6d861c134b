"""What a detector is, and the registry by which one's own plugs in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np

from sga_kohya.hsd.cut.geometry import Box, Size
from sga_kohya.hsd.detectors.options import Options

BUILT_IN = ("heuristic", "yolo", "onnx", "rtdetr", "grounding-dino", "vlm", "boxes")
"""A module of sga_kohya.hsd.detectors each, with '_' for '-', imported only when it is used."""


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
    """

    name: str
    """Recorded in the manifest."""

    def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
        """Returns one list per view, best first. The views' sizes may differ.

        A view's result must not depend on the others of the batch: batches change from run to run.
        """
        ...


DetectorFactory = Callable[[Options, Path], Detector]
"""Called once per run with what the user wants of it and PHOTOS, before any photo is read. Reads its options and calls
their `finish`, so that a misspelt one is not passed over in silence. Raises SgaError."""


def _built_in(name: str) -> DetectorFactory:
    def create(options: Options, photos: Path) -> Detector:
        detector: Detector = import_module(f"sga_kohya.hsd.detectors.{name.replace('-', '_')}").create(options, photos)
        return detector

    return create


DETECTORS: dict[str, DetectorFactory] = {name: _built_in(name) for name in BUILT_IN}


def register_detector(name: str, factory: DetectorFactory) -> None:
    """Makes `detector=name` valid. Raises ValueError when name is taken."""
    if name in DETECTORS:
        raise ValueError(f"detector {name!r} is already registered: choose another name")
    DETECTORS[name] = factory
