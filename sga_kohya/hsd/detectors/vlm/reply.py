"""What the model is asked, and the reading of what it answers."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sga_kohya.hsd.cut.geometry import Size
from sga_kohya.hsd.detectors.classes import Found
from sga_kohya.hsd.detectors.vlm.interview import BadReply

RELATIVE = 1000
"""Coordinates run from 0 to this in both directions, unless pixels are asked for."""

SLACK = 0.02
"""A box may lie this share of a side outside the picture; it is cut off. Further out the reply is in other units."""

LONGEST = 100_000
"""Characters of a reply; boxes of a hundred things take a tenth of it."""

DEEPEST = 16
"""Brackets within brackets; a list of boxes in an object has four."""

STARTS = 100
"""Brackets at which a list is looked for; prose has few."""

FORMAT = (
    'Reply with JSON only, a list of {{"label": LABEL, "box": [left, top, right, bottom]}}, the clearest first. '
    "{units} Give an empty list when there is none."
)


def question(labels: Sequence[str], units: Size | None) -> str:
    """units: width and height of the picture where boxes are wanted in its pixels, else None."""
    named = ", ".join(f'"{label}"' for label in labels)
    words = (
        f"The coordinates are whole pixels of this picture, which is {units[0]} wide and {units[1]} high."
        if units
        else f"The coordinates are whole numbers from 0 to {RELATIVE}, relative to the picture's width and height."
    )
    form = FORMAT.format(units=words)
    return f"Find every {named} in this picture, with a tight box around all of it. LABEL is one of these words. {form}"


def read_reply(text: str, labels: Sequence[str], extent: Size) -> list[Found]:
    """Corners in [0, 1] of the picture's sides, score and label. extent: what the right and lower edges are called.

    Scores fall by 0.01 from 1 with the order: such models have no better notion of how sure they are.
    Raises BadReply.
    """
    spelled = {label.casefold(): label for label in labels}
    return [_box(entry, i, spelled, extent) for i, entry in enumerate(_entries(text))]


def _entries(text: str) -> list[Any]:
    """The JSON list in a reply, alone, in a code fence, within prose, or as the only list of an object."""
    _check_extent(text)
    # Numbers as float: one of 400 digits is then infinite, which is refused, instead of an error anywhere below.
    decoder, start = json.JSONDecoder(parse_int=float), 0
    for _ in range(STARTS):
        bracket = re.compile(r"[\[{]").search(text, start)
        if bracket is None:
            break
        start = bracket.end()
        try:
            value, start = decoder.raw_decode(text, bracket.start())
        except ValueError:
            continue
        entries = _as_list(value)
        if entries is not None:
            return entries
    raise BadReply("it holds no JSON list of boxes")


def _check_extent(text: str) -> None:
    """Raises BadReply for what would take long, or more depth than Python has, to read."""
    if len(text) > LONGEST:
        raise BadReply(f"it has {len(text)} characters, more than {LONGEST}")
    depth = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth = depth + 1 if bracket in "[{" else max(0, depth - 1)
        if depth > DEEPEST:
            raise BadReply(f"its brackets are nested more than {DEEPEST} deep")


def _as_list(value: object) -> list[Any] | None:
    if isinstance(value, list) and all(isinstance(entry, Mapping) for entry in value):
        return value
    if isinstance(value, Mapping):
        lists = [entry for entry in value.values() if isinstance(entry, list)]
        return [value] if "label" in value else _as_list(lists[0]) if len(lists) == 1 else None
    return None


def _box(entry: Mapping[str, Any], rank: int, spelled: Mapping[str, str], extent: Size) -> Found:
    label = spelled.get(str(entry.get("label", "")).strip().casefold())
    if label is None:
        raise BadReply(f"label {entry.get('label')!r:.80} is none of {', '.join(spelled.values())}")
    # bbox_2d is Qwen's habit. Gemini's box_2d is asked again: its numbers come top first.
    box = entry.get("box", entry.get("bbox_2d"))
    numbers = box if isinstance(box, list) else []
    if len(numbers) != 4 or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise BadReply(f"box {box!r:.80} is not four numbers")
    if not all(map(math.isfinite, numbers)):
        raise BadReply(f"box {box!r:.80} is not four finite numbers")
    x0, y0, x1, y1 = (edge / side for edge, side in zip(numbers, extent * 2, strict=True))
    if not all(-SLACK <= edge <= 1 + SLACK for edge in (x0, y0, x1, y1)):
        raise BadReply(f"box {box!r:.80} lies outside 0 to {extent[0]} by 0 to {extent[1]}")
    if x0 >= x1 or y0 >= y1:
        raise BadReply(f"box {box!r:.80} is empty: left must be below right, top below bottom")
    corners = tuple(min(1.0, max(0.0, edge)) for edge in (x0, y0, x1, y1))
    return corners, max(0.0, round(1 - 0.01 * rank, 2)), label
