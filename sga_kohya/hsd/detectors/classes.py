"""What all detectors with a fixed list of classes share: models by level, thresholds, and one pass for all levels."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np

from sga_kohya.hsd.cut.geometry import Box, Size
from sga_kohya.hsd.detect import Detection, View
from sga_kohya.hsd.detectors.labels import ClassChoice
from sga_kohya.hsd.detectors.letterbox import best_first, to_detection
from sga_kohya.hsd.detectors.options import Options

Found = tuple[Sequence[float], float, str]
"""Corners in pixels of the view, score and class."""


class Thing(NamedTuple):
    """What a model finds; as Found. draw: the mask of the thing inside a box of the view, (height, width) uint8, 255
    where it is; None where the model draws none, or nobody wants it."""

    corners: Sequence[float]
    score: float
    label: str
    draw: Callable[[Box], np.ndarray] | None = None


class Model(Protocol):
    classes: Sequence[str]
    draws_masks: bool
    """Whether what it finds can be drawn, and masks are wanted."""

    def predict(self, views: Sequence[View]) -> list[list[Thing]]:
        """Everything above the threshold that the model was built with, one list per view."""
        ...


class Loader(Protocol):
    def __call__(self, path: str, threshold: float) -> Model: ...


class ClassDetector:
    """Detections of a level's classes by the level's model. A model that serves several levels runs once per batch."""

    def __init__(
        self, options: Options, models: dict[str, str], thresholds: dict[str, float], choice: ClassChoice, load: Loader
    ) -> None:
        """models: {level: path or name}. Every model is loaded here; one lowest threshold serves all its levels."""
        self.name, self._models, self._thresholds = options.detector, models, thresholds
        self._loaded = {
            path: load(path, min(thresholds[level] for level in models if models[level] == path))
            for path in dict.fromkeys(models.values())
        }
        alone = options.is_per_level("model")
        self._classes = {level: choice.of(level, self._loaded[path].classes, alone) for level, path in models.items()}
        self.draws_masks = any(model.draws_masks for model in self._loaded.values())
        self._last: tuple[str, Sequence[View], list[list[Thing]]] | None = None

    def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
        return [
            best_first(
                [
                    _detection(thing, level, view.size)
                    for thing in found
                    if thing.label in self._classes[level] and thing.score >= self._thresholds[level]
                ]
            )
            for view, found in zip(views, self._predict(views, self._models[level]), strict=True)
        ]

    def _predict(self, views: Sequence[View], path: str) -> list[list[Thing]]:
        """The levels of one batch come one after the other: the last answer serves those with the same model."""
        last = self._last
        if (
            last
            and last[0] == path
            and len(last[1]) == len(views)
            and all(a is b for a, b in zip(last[1], views, strict=True))
        ):
            return last[2]
        found = self._loaded[path].predict(views)
        self._last = (path, list(views), found)
        return found


def _detection(found: Thing, level: str, size: Size) -> Detection | None:
    detection = to_detection(found.corners, found.score, level, found.label, size)
    return replace(detection, mask=found.draw(detection.box)) if detection and found.draw else detection
