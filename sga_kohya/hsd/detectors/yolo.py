"""YOLO weights (.pt) through ultralytics, which is AGPL-3.0: an optional extra, imported only here.

Only load weights that you trust: a .pt file can run code.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.hsd.cut.geometry import Box
from sga_kohya.hsd.detect import View
from sga_kohya.hsd.detectors.classes import ClassDetector, Thing
from sga_kohya.hsd.detectors.labels import ClassChoice
from sga_kohya.hsd.detectors.letterbox import chunks
from sga_kohya.hsd.detectors.options import Options
from sga_kohya.hsd.devices import batch_size, torch_device
from sga_kohya.kit.extras import library
from sga_kohya.kit.values import whole


class YoloModel:
    def __init__(self, path: str, threshold: float, imgsz: int, device: str, masks: bool) -> None:
        # It would otherwise install missing packages in the middle of a run, and send usage statistics.
        os.environ.setdefault("YOLO_AUTOINSTALL", "false")
        os.environ.setdefault("YOLO_OFFLINE", "true")
        reader = Image.open
        ultralytics = library("ultralytics", "yolo", "detector yolo")
        Image.open = reader  # ultralytics puts its own there, which asks for a package at each file that is no image
        self._device, self._imgsz, self._threshold = torch_device(device), imgsz, threshold
        try:
            self._model = ultralytics.YOLO(path)
            self.classes: Sequence[str] = list(self._model.names.values())
        except Exception as error:  # whatever pickle and ultralytics raise for a file that is no YOLO model
            raise SgaError(f"detector yolo: cannot load {path}: {error}") from error
        if self._model.task not in ("detect", "segment", "pose"):
            raise SgaError(f"detector yolo: {path} is for the task {self._model.task}: use a detection model")
        self.draws_masks = masks and self._model.task == "segment"

    def predict(self, views: Sequence[View]) -> list[list[Thing]]:
        found = []
        for chunk, real in chunks(views, batch_size(self._device)):
            results = self._model.predict(
                [view.pixels[..., ::-1].copy() for view in chunk],  # arrays are taken as BGR
                imgsz=self._imgsz,
                conf=self._threshold,
                device=str(self._device),
                rect=False,  # always square: a view's input must not depend on the others' shapes
                verbose=False,
            )
            found += [self._found(result) for result in results[:real]]
        return found

    def _found(self, result: Any) -> list[Thing]:
        """result: ultralytics' own, of one picture."""
        boxes = result.boxes
        outlines = result.masks.xy if self.draws_masks and result.masks is not None else [None] * len(boxes)
        columns = (boxes.xyxy.tolist(), boxes.conf.tolist(), boxes.cls.tolist(), outlines)
        return [
            Thing(corners, score, self._model.names[int(number)], None if outline is None else partial(drawn, outline))
            for corners, score, number, outline in zip(*columns, strict=True)
        ]


def drawn(outline: np.ndarray, box: Box) -> np.ndarray:
    """(n, 2) corners of a polygon in pixels of the view, filled: (height, width) uint8 of a box of it."""
    mask = np.zeros(box.size[::-1], np.uint8)
    if len(outline):
        cv2.fillPoly(mask, [np.round(outline - (box.x0, box.y0)).astype(np.int32)], (255,))
    return mask


def create(options: Options, photos: Path) -> ClassDetector:
    models = options.model_files(".pt")
    thresholds, imgsz, choice = options.thresholds(0.3), options.read("imgsz", whole(32), 640), ClassChoice(options)
    options.finish()
    load = partial(YoloModel, imgsz=imgsz, device=options.device, masks=options.masks)
    return ClassDetector(options, models, thresholds, choice, load)
