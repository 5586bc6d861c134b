"""Frontal faces by OpenCV's cascades, where it has them: OpenCV 4 does, OpenCV 5 does not.

On a copy of 320 pixels a loose cascade finds more faces than a strict one on 512, in half the time, and what it takes
for a face by mistake has no eyes: on 122 photos 22 of MTCNN's 37 faces, and nothing that is none.
"""

from collections.abc import Sequence
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

    def heads(self, picture: np.ndarray, pixels: np.ndarray) -> list[Box]:
        """In pixels of the photo, large ones first. picture: (h, w, 3) RGB uint8, its copy of a few hundred pixels.

        pixels: the photo itself, in which a face's eyes are sought.
        """
        found = self._face.detectMultiScale(
            cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 1.2, 2, minSize=(SMALLEST, SMALLEST)
        )
        zoom = pixels.shape[1] / picture.shape[1]
        faces = [tuple(int(value * zoom) for value in face) for face in found]
        heads = [head_of(face, pixels.shape) for face in faces if self._has_eyes(face, pixels)]
        return sorted(heads, key=lambda head: (-head.area, head))

    def _has_eyes(self, face: Sequence[int], pixels: np.ndarray) -> bool:
        x, y, width, height = face
        upper = pixels[y : y + max(1, int(0.6 * height)), x : x + width]
        grey = cv2.resize(cv2.cvtColor(upper, cv2.COLOR_RGB2GRAY), EYES, interpolation=cv2.INTER_AREA)
        return len(self._eye.detectMultiScale(grey, 1.1, 2, minSize=(16, 16))) > 0


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
