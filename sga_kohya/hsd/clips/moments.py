"""In time: a slice of each label, each inside the one before, all around the sharpest frame of the shot."""

from collections.abc import Sequence

from sga_kohya.hsd.clips.grid import Span
from sga_kohya.hsd.clips.labels import SHOT, Label, longest
from sga_kohya.hsd.clips.looking import Look
from sga_kohya.hsd.clips.shots import longest_shot


def moments(window: Span, labels: Sequence[Label], seen: Look) -> dict[str, Span]:
    """By label, those for which there are enough frames. window: of the coarsest label, all of it decodable.

    A frame that is sharp alone may be a flash or a slip of the codec, but it is also what one would take by eye.
    """
    names = [label.name for label in labels]
    shot = longest_shot(window, seen.cuts) if SHOT in names else window
    first = shot.start - window.start
    sharp = seen.sharpness[first : first + shot.frames]
    middle = shot.start + sharp.index(max(sharp))
    found: dict[str, Span] = {}
    room = window
    for label in labels:
        if SHOT in names and names.index(label.name) >= names.index(SHOT):
            room = room if _inside(room, shot) else shot
        frames = longest(label.frames, room.frames)
        if frames:
            room = found[label.name] = room.around(middle, frames)
    return found


def _inside(inner: Span, outer: Span) -> bool:
    return outer.start <= inner.start and inner.start + inner.frames <= outer.start + outer.frames
