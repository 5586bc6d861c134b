"""Grounding DINO through transformers: finds any phrase, a list of phrases per level."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sga_kohya.hsd.detect import Detection, View
from sga_kohya.hsd.detectors.labels import phrases
from sga_kohya.hsd.detectors.letterbox import best_first, to_detection
from sga_kohya.hsd.detectors.options import Options
from sga_kohya.hsd.detectors.transformer import each_view, load_pretrained, target_sizes
from sga_kohya.hsd.devices import torch_device
from sga_kohya.kit.values import number, text

if TYPE_CHECKING:
    import torch

DEFAULT_MODEL = "IDEA-Research/grounding-dino-tiny"
"""Apache-2.0."""


class GroundingDinoDetector:
    name = "grounding-dino"

    def __init__(
        self,
        model: str,
        labels: Mapping[str, Sequence[str]],
        thresholds: Mapping[str, float],
        text_threshold: float,
        device: str,
    ) -> None:
        """labels: phrases by level. text_threshold: how sure a word must be to belong to what a box is called."""
        classes = ("AutoProcessor", "AutoModelForZeroShotObjectDetection")
        self._processor, loaded = load_pretrained(classes, model, f"detector {self.name}", "dino")
        self._device = torch_device(device)
        self._model = loaded.eval().float().to(self._device)
        self._labels, self._thresholds, self._text_threshold = labels, thresholds, text_threshold

    def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
        # The form it was trained on: lower case, a full stop behind each phrase.
        text = " ".join(f"{phrase.lower().rstrip('.')}." for phrase in self._labels[level])
        tokens = self._processor.tokenizer(text, return_tensors="pt").to(self._device)

        def answer(pixels: "torch.Tensor", batch: Sequence[View]) -> list[dict[str, Any]]:
            repeated = {name: values.expand(len(batch), -1) for name, values in tokens.items()}
            outputs = self._model(pixel_values=pixels, **repeated)
            # By position: transformers 4.50 renamed box_threshold to threshold.
            return self._processor.post_process_grounded_object_detection(
                outputs,
                repeated["input_ids"],
                self._thresholds[level],
                self._text_threshold,
                target_sizes(batch),
            )

        answers = each_view(views, self._preprocess, answer, self._device)
        return [self._detections(found, level, view) for found, view in zip(answers, views, strict=True)]

    def _preprocess(self, pixels: np.ndarray) -> "torch.Tensor":
        values: torch.Tensor = self._processor.image_processor(images=pixels, return_tensors="pt")["pixel_values"]
        return values

    def _detections(self, found: Mapping[str, Any], level: str, view: View) -> list[Detection]:
        names = found["text_labels"] if "text_labels" in found else found["labels"]
        columns = (found["boxes"].tolist(), found["scores"].tolist(), names)
        return best_first(
            [
                to_detection(corners, score, level, closest(name, self._labels[level]), view.size)
                for corners, score, name in zip(*columns, strict=True)
            ]
        )


def closest(found: str, phrases: Sequence[str]) -> str:
    """The phrase that shares most words with what a box was called: DINO answers with some words of one or of two."""
    words = set(found.lower().split())
    return max(phrases, key=lambda phrase: len(words & set(phrase.lower().split())))


def create(options: Options, photos: Path) -> GroundingDinoDetector:
    model, labels, thresholds = options.read("model", text, DEFAULT_MODEL), phrases(options), options.thresholds(0.3)
    text_threshold = options.read("text_threshold", number(0, 1), 0.25)
    options.finish()
    return GroundingDinoDetector(model, labels, thresholds, text_threshold, options.device)
