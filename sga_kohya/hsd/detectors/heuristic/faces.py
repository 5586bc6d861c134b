"""What finds faces: YuNet where the user gives its file, else OpenCV's cascades, which OpenCV 5 has no more."""

import sys
from pathlib import Path

import cv2

from sga_kohya.hsd.detectors.heuristic.cascades import Cascades
from sga_kohya.hsd.detectors.heuristic.heads import FaceFinder
from sga_kohya.hsd.detectors.heuristic.yunet import MODEL, YuNet

REMEDY = (
    f"give --detector_arg face_model={MODEL}, 230 KB, MIT, from models/face_detection_yunet of "
    'github.com/opencv/opencv_zoo; or pip install "opencv-python<5"; or a --detector that knows people'
)


def face_finder(model: Path | None) -> FaceFinder | None:
    """model: YuNet's file. None, and a sentence, where there is neither that nor a cascade.

    Raises SgaError for a model that cannot be used.
    """
    if model:
        return YuNet(model)
    if Cascades.available():
        return Cascades()
    print(
        f"heuristic: faces are not looked for, as OpenCV {cv2.__version__} has no cascades: {REMEDY}", file=sys.stderr
    )
    return None
