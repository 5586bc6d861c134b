"""What is looked at before a clip is cut: some frames of it as they are, and how sharp each is.

Each look decodes the window once more: time, not memory, is what a clip may take.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from sga_kohya.hsd.clips.colour import to_rgb
from sga_kohya.hsd.clips.grid import Span, on_grid
from sga_kohya.hsd.clips.reading import Clip, Damage, examine, frames
from sga_kohya.hsd.clips.shots import Cuts
from sga_kohya.hsd.photos.scaling import fit

TINY = (32, 18)
CUT, LEAST = 0.6, 8.0
"""Mean difference of brightness, over its deviation, from which on two frames are of two shots; the least
deviation that counts, in grey levels."""
SMALL = 512
"""Longer side at which sharpness is measured: noise and the codec's blocks are averaged away, blur is not."""


@dataclass
class Look:
    """Of a window. frames: that can be decoded, from its beginning on. sharpness: of each. cuts: the frames of the grid
    that begin a shot."""

    frames: int = 0
    sharpness: list[float] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)


@dataclass
class Picked:
    """pictures: frames of the grid in RGB by place. frames: of the span that can be decoded, from its start on. cut:
    whether two that follow each other are hardly of one shot."""

    pictures: dict[int, np.ndarray] = field(default_factory=dict)
    frames: int = 0
    cut: bool = False


def pick(clip: Clip, fps: float, span: Span, wanted: Collection[int]) -> Picked:
    """The wanted frames of the grid, and what all others show of the span."""
    found = Picked()
    before = None
    for place, frame in on_grid(clip, fps, span):
        found.frames += 1
        if place in wanted:
            found.pictures[place] = to_rgb(frame, clip.shape)
        tiny = frame.reformat(*TINY, "gray").to_ndarray().astype(np.float32)
        found.cut = found.cut or (before is not None and differ(before, tiny))
        before = tiny
    return found


def differ(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether two small pictures of brightness that follow each other share so little that a box for both means
    nothing: to warn of a cut, not to find shots by."""
    a, b = before - before.mean(), after - after.mean()  # a lamp or a flash is no cut
    return bool(np.abs(a - b).mean() > CUT * max(LEAST, a.std(), b.std()))


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


def middle_of(path: Path) -> np.ndarray:
    """A frame from a clip's middle in RGB. Raises Damage, OSError or SgaError."""
    clip = examine(path)
    found = next(frames(clip, clip.seconds / 2), None)
    if found is None:
        raise Damage("no frame in its middle can be decoded")
    return to_rgb(found[1], clip.shape)
