"""What a detector is, and the registry by which one's own plugs in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sga_kohya.hsd.geometry import Box

if TYPE_CHECKING:
    from sga_kohya.hsd.config import HsdConfig


@dataclass(frozen=True)
class Detection:
    """A box in pixels of the image it was found in, its score in [0, 1] and the level it was sought for."""

    box: Box
    score: float
    level: str


class Detector(Protocol):
    """Detect of Algorithm 1, batched."""

    name: str
    """Recorded in the manifest."""

    def detect(self, images: Sequence[np.ndarray], level: str) -> list[list[Detection]]:
        """images: RGB uint8, (H, W, 3) each, sizes may differ. Returns one list per image, best first.

        An image's result must not depend on the others of the batch: batches change from run to run.
        """
        ...


DetectorFactory = Callable[["HsdConfig"], Detector]
DETECTORS: dict[str, DetectorFactory] = {}


def register_detector(name: str, factory: DetectorFactory) -> None:
    """Makes `detector=name` valid; `factory(config)` builds it once per run. Raises ValueError when name is taken."""
    if name in DETECTORS:
        raise ValueError(f"detector {name!r} is already registered: choose another name")
    DETECTORS[name] = factory


def make_detector(config: "HsdConfig") -> Detector:
    """The detector that a (validated) configuration names."""
    return DETECTORS[config.detector](config)
