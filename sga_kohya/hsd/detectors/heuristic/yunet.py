"""Faces, turned ones too, by YuNet: a file of the user's, which OpenCV 4 and 5 read alike."""

from pathlib import Path

import cv2
import numpy as np

from sga_kohya.errors import SgaError
from sga_kohya.hsd.detectors.heuristic.heads import Heads, heads_of

MODEL = "face_detection_yunet_2026may.onnx"
SURE, LIKELY = 0.75, 0.6
"""Scores from which on a face is one, and may be one."""
SMALLEST = 20
"""Height in pixels of the copy: smaller faces are in the background."""
AROUND = (0.3, 0.3, 0.3, 0.15)
"""Room of a head: YuNet frames from the forehead to the chin, without hair and ears."""
SIZE, SCORE, OVERLAP, MOST = (320, 320), 14, 0.3, 5000
"""SCORE: its place in what is found, behind a box and five points. OVERLAP, MOST: OpenCV's own."""


class YuNet:
    """Heads of faces. One thread at a time."""

    def __init__(self, file: Path) -> None:
        """Raises SgaError where it is another model's, or this OpenCV has nothing that reads it."""
        self.file = file
        if not hasattr(cv2, "FaceDetectorYN"):
            raise SgaError(
                f"detector heuristic: face_model: OpenCV {cv2.__version__} has no FaceDetectorYN: "
                "pip install -U opencv-python, or leave face_model out"
            )
        # Of its bytes, for on Windows OpenCV opens no file whose name has letters of another language.
        model, settings = np.frombuffer(file.read_bytes(), np.uint8), np.empty(0, np.uint8)
        blank = np.zeros((*SIZE, 3), np.uint8)
        try:
            self._net = cv2.FaceDetectorYN.create("onnx", model, settings, SIZE, LIKELY, OVERLAP, MOST)
            self.heads(blank, blank)
        except cv2.error as error:
            why = " ".join(str(error.err or error).split())
            raise SgaError(
                f"detector heuristic: face_model {file} is not YuNet's ({why:.200}): give {MODEL} of the OpenCV Zoo"
            ) from None

    def heads(self, picture: np.ndarray, pixels: np.ndarray) -> Heads:
        self._net.setInputSize(picture.shape[1::-1])
        found = self._net.detect(np.ascontiguousarray(picture[..., ::-1]))[1]
        faces = np.empty((0, SCORE + 1)) if found is None else found
        faces = faces[faces[:, 3] >= SMALLEST]
        places, sure = faces[:, :4] * (pixels.shape[1] / picture.shape[1]), faces[:, SCORE] >= SURE
        return heads_of(places[sure], places[~sure], AROUND, pixels)
