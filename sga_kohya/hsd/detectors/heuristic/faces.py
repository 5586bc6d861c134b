"""Frontal faces by OpenCV's cascades, where it has them: OpenCV 4 does, OpenCV 5 does not.

On a copy of 320 pixels a loose cascade finds more faces than a strict one on 512, in half the time. What it finds more
than twice over and with eyes in it is a head; the rest may be one, and is at least not to be cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np

from sga_kohya.hsd.cut.geometry import Box

FACE, EYE = "haarcascade_frontalface_alt2.xml", "haarcascade_eye.xml"
SMALLEST = 28
"""Pixels of the copy: smaller faces are in the background, and looking for them takes twice the time."""
EYES = (120, 72)
"""Size that the upper part of a face is scaled to before eyes are sought in it."""
AROUND = (0.15, 0.3, 0.15, 0.2)
"""What a head has left of, above, right of and below its face, over the face's sides: cascades frame tightly."""
SURE = 3
"""How often a face has to be found, at places and sizes that differ a little, to be one."""


@dataclass(frozen=True)
class Heads:
    """In pixels of the photo, large ones first. sure: those of faces; likely: what may be some as well."""

    sure: Sequence[Box] = ()
    likely: Sequence[Box] = ()


class Faces:
    """Heads of frontal faces. One thread at a time."""

    @staticmethod
    def available() -> bool:
        """Whether this OpenCV carries the cascades."""
        return hasattr(cv2, "CascadeClassifier") and all(_file(name).is_file() for name in (FACE, EYE))

    @cached_property
    def _face(self) -> "cv2.CascadeClassifier":
        return cv2.CascadeClassifier(str(_file(FACE)))

    @cached_property
    def _eye(self) -> "cv2.CascadeClassifier":
        return cv2.CascadeClassifier(str(_file(EYE)))

    def heads(self, picture: np.ndarray, pixels: np.ndarray) -> Heads:
        """picture: (h, w, 3) RGB uint8, the photo's copy of a few hundred pixels.

        pixels: the photo itself, in which a face's eyes are sought.
        """
        found, counts = self._face.detectMultiScale2(
            cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 1.2, 1, minSize=(SMALLEST, SMALLEST)
        )
        zoom = pixels.shape[1] / picture.shape[1]
        heads: dict[bool, list[Box]] = {True: [], False: []}
        for place, count in zip(found, counts, strict=True):
            face = tuple(int(value * zoom) for value in place)
            heads[count >= SURE and self._has_eyes(face, pixels)].append(head_of(face, pixels.shape))
        return Heads(*(sorted(heads[sure], key=lambda head: (-head.area, head)) for sure in (True, False)))

    def _has_eyes(self, face: Sequence[int], pixels: np.ndarray) -> bool:
        x, y, width, height = face
        upper = pixels[y : y + max(1, int(0.6 * height)), x : x + width]
        grey = cv2.resize(cv2.cvtColor(upper, cv2.COLOR_RGB2GRAY), EYES, interpolation=cv2.INTER_AREA)
        return len(self._eye.detectMultiScale(grey, 1.1, 3, minSize=(16, 16))) > 0


def head_of(face: Sequence[int], shape: Sequence[int]) -> Box:
    """The box of the head around a face's (left, top, width, height), inside a photo of `shape`, (H, W, …)."""
    x, y, width, height = face
    left, above, right, below = AROUND
    return Box(
        max(0, round(x - left * width)),
        max(0, round(y - above * height)),
        min(shape[1], round(x + width * (1 + right))),
        min(shape[0], round(y + height * (1 + below))),
    )


def _file(name: str) -> Path:
    folder: str = import_module("cv2.data").haarcascades
    return Path(folder) / name
