"""The head around a face, whoever has found it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sga_kohya.hsd.cut.geometry import Box


@dataclass(frozen=True)
class Heads:
    """In pixels of the photo, large ones first. sure: those of faces; likely: what may be some as well."""

    sure: Sequence[Box] = ()
    likely: Sequence[Box] = ()


class FaceFinder(Protocol):
    """One thread at a time."""

    def heads(self, picture: np.ndarray, pixels: np.ndarray) -> Heads:
        """picture: (h, w, 3) RGB uint8, a copy of a few hundred pixels of the photo, `pixels`."""
        ...


Room = tuple[float, float, float, float]
"""What a head has left of, above, right of and below its face, over the face's sides."""


def heads_of(
    sure: Sequence[Sequence[float]], likely: Sequence[Sequence[float]], room: Room, photo: np.ndarray
) -> Heads:
    """Of faces as (left, top, width, height) in pixels of the photo."""
    boxes = ([head_of(face, room, photo.shape) for face in faces] for faces in (sure, likely))
    return Heads(*(sorted(heads, key=lambda head: (-head.area, head)) for heads in boxes))


def head_of(face: Sequence[float], room: Room, shape: Sequence[int]) -> Box:
    """The box of the head around a face's (left, top, width, height), inside a photo of `shape`, (H, W, …)."""
    x, y, width, height = face
    left, above, right, below = room
    return Box(
        max(0, round(x - left * width)),
        max(0, round(y - above * height)),
        min(shape[1], round(x + width * (1 + right))),
        min(shape[0], round(y + height * (1 + below))),
    )
