"""What is looked at before a clip is cut: some frames of it as they are, and how sharp each is.

Each look decodes the window once more: time, not memory, is what a clip may take.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

import cv2
import numpy as np

from sga_kohya.hsd.clips.colour import to_rgb
from sga_kohya.hsd.clips.grid import Span, on_grid
from sga_kohya.hsd.clips.reading import Clip
from sga_kohya.hsd.clips.shots import Cuts
from sga_kohya.hsd.photos.images import fit

SMALL = 512
"""Longer side at which sharpness is measured: noise and the codec's blocks are averaged away, blur is not."""


@dataclass
class Look:
    """Of a window. frames: that can be decoded, from its beginning on. sharpness: of each. cuts: the frames of the grid
    that begin a shot."""

    frames: int = 0
    sharpness: list[float] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)


def pick(clip: Clip, fps: float, span: Span, wanted: Collection[int]) -> tuple[dict[int, np.ndarray], int]:
    """The wanted frames of the grid in RGB, and how many frames of the span can be decoded."""
    found, count = {}, 0
    for place, frame in on_grid(clip, fps, span):
        count += 1
        if place in wanted:
            found[place] = to_rgb(frame, clip.shape)
    return found, count


def look(clip: Clip, fps: float, span: Span, cuts: Cuts | None) -> Look:
    """Every frame of the window, small. cuts: finds shots, None where nobody asks for them."""
    found = Look()
    for place, frame in on_grid(clip, fps, span):
        small = fit(to_rgb(frame, clip.shape), SMALL)
        found.frames += 1
        found.sharpness.append(sharpness(small))
        found.cuts += cuts.seen(place, small) if cuts else []
    return found


def sharpness(pixels: np.ndarray) -> float:
    """Variance of the Laplacian: to compare frames of one clip, no measure across clips. pixels: (H, W, 3) RGB."""
    return float(cv2.Laplacian(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var())
