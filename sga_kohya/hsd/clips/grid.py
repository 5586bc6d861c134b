"""A clip's frames at even times, whatever its own rate, and the parts of it that are cut."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sga_kohya.hsd.clips.labels import longest
from sga_kohya.hsd.clips.reading import Clip, frames

ALMOST = 1e-6


@dataclass(frozen=True)
class Span:
    """So many frames of the grid, from the frame `start` of it on; frame k lies k / fps seconds into the clip."""

    start: int
    frames: int

    def spread(self, count: int) -> list[int]:
        """Frames of the grid, evenly from the first to the last, at most as many as there are."""
        count = min(count, self.frames)
        return [self.start + round(place) for place in np.linspace(0, self.frames - 1, count)]

    def around(self, middle: int, frames: int) -> "Span":
        """So many frames inside this span, `middle` in their middle as far as its ends allow; no more than it has."""
        start = min(max(self.start, middle - frames // 2), self.start + self.frames - frames)
        return Span(start, frames)


def length(clip: Clip, fps: float) -> int:
    """Frames of the grid that a clip has."""
    return max(1, round(clip.seconds * fps))


def windows(there: int, wanted: int, most: int) -> list[Span]:
    """At most so many parts of a clip of `there` frames, evenly spread, none sharing a frame; [] where it is too short.

    One alone is the middle: beginnings are titles and hands that come from the button.
    """
    frames = longest(wanted, there)
    if not frames:
        return []
    count = min(most, there // frames)
    slot = there / count
    return [Span(int((number + 0.5) * slot - frames / 2), frames) for number in range(count)]


def on_grid(clip: Clip, fps: float, span: Span) -> Iterator[tuple[int, Any]]:
    """(frame of the grid, the clip's frame nearest in time), fewer than asked for where the clip cannot be read on."""
    return nearest(frames(clip, span.start / fps), fps, span, 1 / clip.fps)


def nearest(timed: Iterable[tuple[float, Any]], fps: float, span: Span, last: float) -> Iterator[tuple[int, Any]]:
    """timed: (seconds, frame) in order. last: how long the last frame stands, in seconds."""
    place, end, held = span.start, span.start + span.frames, None
    for time, frame in timed:
        while held and place < end and place / fps <= (held[0] + time) / 2:
            yield place, held[1]
            place += 1
        if place >= end:
            return
        held = time, frame
    while held and place < end and place / fps < held[0] + last - ALMOST:
        yield place, held[1]
        place += 1
