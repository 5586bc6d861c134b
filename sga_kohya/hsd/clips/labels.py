"""What is cut from a clip: its mode, and the labels of slices that differ in time. No pixels, no files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sga_kohya.errors import SgaError

SPATIAL, TEMPORAL, BOTH, OFF = "spatial", "temporal", "both", "off"
MODES = (SPATIAL, TEMPORAL, BOTH, OFF)
SHOT = "shot"
"""The label whose slice does not go across a cut, nor do those of the labels behind it."""
FEWEST = 5
"""Frames of the shortest clip that is cut: 4n+1 above one, which is an image."""
STEP = 4
"""Frames of the clip to one of the latents, of every video model that musubi-tuner knows; the first stands alone."""
USUAL = {"clip": (81, 256), SHOT: (33, 384), "moment": (9, 512), "frame": (1, 768)}
"""Frames and resolution of labels that say none: about as many pixels each, so that none is most of the work."""
DEFAULT_LABELS = tuple(USUAL)


@dataclass(frozen=True)
class Label:
    """One granularity in time. frames: 4n+1 at most, 1 for an image. resolution: as of a level."""

    name: str
    frames: int
    resolution: int

    @property
    def still(self) -> bool:
        return self.frames == 1

    def __str__(self) -> str:
        return f"{self.name}:{self.frames}:{self.resolution}"


def parse_label(text: str, rank: int = 0, count: int = 1) -> Label:
    """NAME, NAME:FRAMES or NAME:FRAMES:RESOLUTION; what is not said is that of the usual label of its name or place.

    Raises SgaError.
    """
    name, *numbers = (part.strip() for part in text.split(":"))
    if len(numbers) > 2 or not all(number.isdigit() for number in numbers):
        raise SgaError(f"label {text!r}: write NAME:FRAMES:RESOLUTION, such as moment:9:512, or less of it")
    frames, resolution = USUAL.get(name) or _by_place(rank, count)
    given = [int(number) for number in numbers]
    return Label(name, *[*given, *(frames, resolution)[len(given) :]])


def parse_labels(texts: Sequence[str]) -> tuple[Label, ...]:
    return tuple(parse_label(text, rank, len(texts)) for rank, text in enumerate(texts))


def problems(labels: Sequence[Label]) -> Iterator[str]:
    """What is wrong with the labels of a clip, one sentence each, with the remedy."""
    names = [label.name for label in labels]
    if len(labels) < 2:
        yield f"clip_labels {names}: give at least two, long to short"
    if len({name.casefold() for name in names}) < len(names):
        yield f"clip_labels {names}: names must differ"
    for label in labels:
        if not label.name.replace("-", "").isalnum():
            yield f"clip_labels {label.name!r}: use letters, digits and '-'"
        if not label.still:
            yield from frames_problems(f"clip_labels {label}", label.frames)
    for coarser, finer in zip(labels, labels[1:], strict=False):
        if finer.frames > coarser.frames:
            yield f"clip_labels {coarser}, {finer}: the finer one is longer; name them long to short"


def frames_problems(where: str, frames: int) -> Iterator[str]:
    if frames < FEWEST or frames % STEP != 1:
        near = max(FEWEST, (frames - 1) // STEP * STEP + 1)
        yield f"{where}: video models take 4n+1 frames from {FEWEST} on, use {near} or {near + STEP}"


def _by_place(rank: int, count: int) -> tuple[int, int]:
    usual = list(USUAL.values())
    return usual[rank * (len(usual) - 1) // max(1, count - 1)]


def shorter(frames: int) -> Iterator[int]:
    """The lengths that a clip may take, long to short: as wanted, half of it, and so on, each 4n+1.

    Not every 4n+1: slices of one length and size share a data set, and few lengths make few of them.
    """
    while frames >= FEWEST:
        yield frames
        frames = frames // 2 // STEP * STEP + 1


def longest(wanted: int, there: int) -> int:
    """The longest of these lengths that a clip of so many frames has, 0 for none; of an image 1."""
    if wanted == 1:
        return min(1, there)
    return next((frames for frames in shorter(wanted) if frames <= there), 0)
