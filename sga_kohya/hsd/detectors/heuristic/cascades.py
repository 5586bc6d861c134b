"""Frontal faces by the cascades that OpenCV 4 carries.

On a copy of 320 pixels a loose cascade finds more faces than a strict one on 512, in half the time. What it finds more
than twice over and with eyes in it is a head; the rest may be one, and is at least not to be cut.
"""

from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np

from sga_kohya.hsd.detectors.heuristic.heads import Heads, heads_of

FACE, EYE = "haarcascade_frontalface_alt2.xml", "haarcascade_eye.xml"
SMALLEST = 28
"""Pixels of the copy: smaller faces are in the background, and looking for them takes twice the time."""
EYES = (120, 72)
"""Size that the upper part of a face is scaled to before eyes are sought in it."""
AROUND = (0.15, 0.3, 0.15, 0.2)
"""Room of a head: cascades frame tightly."""
SURE = 3
"""How often a face has to be found, at places and sizes that differ a little, to be one."""


class Cascades:
    """Heads of frontal faces. One thread at a time."""

    @staticmethod
    def available() -> bool:
        """Whether this OpenCV carries them."""
        return hasattr(cv2, "CascadeClassifier") and all(_file(name).is_file() for name in (FACE, EYE))

    @cached_property
    def _face(self) -> "cv2.CascadeClassifier":
        return cv2.CascadeClassifier(str(_file(FACE)))

    @cached_property
    def _eye(self) -> "cv2.CascadeClassifier":
        return cv2.CascadeClassifier(str(_file(EYE)))

    def heads(self, picture: np.ndarray, pixels: np.ndarray) -> Heads:
        found, counts = self._face.detectMultiScale2(
            cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 1.2, 1, minSize=(SMALLEST, SMALLEST)
        )
        zoom = pixels.shape[1] / picture.shape[1]
        faces: dict[bool, list[tuple[int, ...]]] = {True: [], False: []}
        for place, count in zip(found, counts, strict=True):
            face = tuple(int(value * zoom) for value in place)
            faces[count >= SURE and self._has_eyes(face, pixels)].append(face)
        return heads_of(faces[True], faces[False], AROUND, pixels)

    def _has_eyes(self, face: Sequence[int], pixels: np.ndarray) -> bool:
        x, y, width, height = face
        upper = pixels[y : y + max(1, int(0.6 * height)), x : x + width]
        grey = cv2.resize(cv2.cvtColor(upper, cv2.COLOR_RGB2GRAY), EYES, interpolation=cv2.INTER_AREA)
        return len(self._eye.detectMultiScale(grey, 1.1, 3, minSize=(16, 16))) > 0


def _file(name: str) -> Path:
    folder: str = import_module("cv2.data").haarcascades
    return Path(folder) / name
