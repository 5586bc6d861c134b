"""Boxes of several levels in one region: room around them, and finer ones inside the coarser that they belong to."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sga_kohya.hsd.cut.geometry import Box, containment, intersection
from sga_kohya.hsd.detect import Detection

BELONGS = 0.5
"""Share of a finer box inside a coarser one from which on it is a part of what that one shows."""


def widened(box: Box, margin: float, bounds: Box) -> Box:
    """With `margin` of its width and height on every side, as far as the bounds reach; box lies inside them."""
    dx, dy = round(margin * box.width), round(margin * box.height)
    return Box(
        max(bounds.x0, box.x0 - dx),
        max(bounds.y0, box.y0 - dy),
        min(bounds.x1, box.x1 + dx),
        min(bounds.y1, box.y1 + dy),
    )


def nested(boxes: Mapping[str, Sequence[Detection]]) -> dict[str, list[Detection]]:
    """By level, coarse to fine: a coarser box takes in whole what belongs to it, as a half-cut head belongs to a body.

    From fine to coarse, so that what was taken in is taken in again; a box goes to the one that holds most of it.
    """
    grown = {level: list(found) for level, found in boxes.items()}
    names = list(grown)
    for coarser, finer in reversed(list(zip(names, names[1:], strict=False))):
        for part in grown[finer]:
            _take_in(part.box, grown[coarser])
    return grown


def _take_in(part: Box, wholes: list[Detection]) -> None:
    """Grows the one of `wholes` that the part belongs to."""
    larger = [i for i, whole in enumerate(wholes) if whole.box.area >= part.area]
    place = max(larger, key=lambda i: intersection(part, wholes[i].box), default=None)
    if place is None or containment(part, wholes[place].box) < BELONGS:
        return
    box = wholes[place].box
    around = Box(min(box.x0, part.x0), min(box.y0, part.y0), max(box.x1, part.x1), max(box.y1, part.y1))
    wholes[place] = replace(wholes[place], box=around)
