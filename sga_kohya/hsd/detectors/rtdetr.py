"""RT-DETR, and any other object-detection model of transformers, from a folder or by its name on the hub."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sga_kohya.hsd.detect import View
from sga_kohya.hsd.detectors.classes import ClassDetector, Thing
from sga_kohya.hsd.detectors.labels import ClassChoice
from sga_kohya.hsd.detectors.options import Options
from sga_kohya.hsd.detectors.transformer import each_view, load_pretrained, target_sizes
from sga_kohya.hsd.devices import torch_device
from sga_kohya.kit.values import text

if TYPE_CHECKING:
    import torch

DEFAULT_MODEL = "PekingU/rtdetr_r50vd_coco_o365"
"""Apache-2.0, the 80 classes of COCO."""


class RtDetrModel:
    draws_masks = False

    def __init__(self, path: str, threshold: float, device: str) -> None:
        classes = ("AutoImageProcessor", "AutoModelForObjectDetection")
        self._processor, model = load_pretrained(classes, path, "detector rtdetr", "dino")
        self._device, self._threshold = torch_device(device), threshold
        self._model = model.eval().float().to(self._device)
        self._names = {int(number): name for number, name in model.config.id2label.items()}
        self.classes: Sequence[str] = list(self._names.values())

    def predict(self, views: Sequence[View]) -> list[list[Thing]]:
        answers = each_view(views, self._preprocess, self._answer, self._device)
        return [
            [
                Thing(corners, score, self._names[number])
                for corners, score, number in zip(*(a[k].tolist() for k in ("boxes", "scores", "labels")), strict=True)
            ]
            for a in answers
        ]

    def _preprocess(self, pixels: np.ndarray) -> "torch.Tensor":
        values: torch.Tensor = self._processor(images=pixels, return_tensors="pt")["pixel_values"]
        return values

    def _answer(self, pixels: "torch.Tensor", views: Sequence[View]) -> list[dict[str, Any]]:
        outputs = self._model(pixel_values=pixels)
        return self._processor.post_process_object_detection(outputs, self._threshold, target_sizes(views))


def create(options: Options, photos: Path) -> ClassDetector:
    models = options.per_level("model", text, lambda level: DEFAULT_MODEL)
    thresholds, choice = options.thresholds(0.5), ClassChoice(options)
    options.finish()
    models = {level: models[level] for level in options.detected}
    return ClassDetector(options, models, thresholds, choice, partial(RtDetrModel, device=options.device))
