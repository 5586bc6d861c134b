"""YOLO exports (.onnx) through ONNX Runtime: v8 to v12 heads [N, 4+C, A] and end-to-end ones [N, A, 6]."""

import ast
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from sga_kohya.errors import SgaError
from sga_kohya.hsd.detect import View
from sga_kohya.hsd.detectors.classes import ClassDetector, Found
from sga_kohya.hsd.detectors.labels import ClassChoice
from sga_kohya.hsd.detectors.letterbox import Letterbox, chunks
from sga_kohya.hsd.detectors.options import Options
from sga_kohya.hsd.devices import ACCELERATOR_BATCH
from sga_kohya.hsd.settings.config import HsdConfig
from sga_kohya.kit.extras import library

NMS_IOU = 0.7
"""Of two boxes of one class that overlap more, the better is taken; ultralytics' own value."""

PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}


class OnnxModel:
    def __init__(self, path: str, threshold: float, imgsz: int, device: str) -> None:
        """imgsz: side of the square input, for a model that accepts any and does not name its own."""
        runtime = library("onnxruntime", "onnx", "detector onnx")
        providers = choose_providers(device, runtime.get_available_providers())
        try:
            self._session = runtime.InferenceSession(path, providers=providers)
        except Exception as error:  # ONNX Runtime's own exceptions have no common base
            raise SgaError(f"detector onnx: cannot load {path}: {str(error).splitlines()[0]}") from error
        self._input = self._session.get_inputs()[0]
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.classes: Sequence[str] = read_names(metadata, path)
        self._threshold = threshold
        self._size = input_size(self._input.shape, metadata, imgsz)
        fixed = self._input.shape[0]
        on_cpu = self._session.get_providers()[0] == PROVIDERS["cpu"]
        self._batch = fixed if isinstance(fixed, int) else 1 if on_cpu else ACCELERATOR_BATCH
        self._dtype = np.float16 if self._input.type == "tensor(float16)" else np.float32

    def predict(self, views: Sequence[View]) -> list[list[Found]]:
        found = []
        for chunk, real in chunks(views, self._batch):
            boxes = [Letterbox(view.size, self._size) for view in chunk]
            pixels = np.stack([box.apply(view.pixels) for box, view in zip(boxes, chunk, strict=True)])
            batch = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), self._dtype) / self._dtype(255)
            output = self._session.run(None, {self._input.name: batch})[0].astype(np.float32)
            found += [self._found(output[i], boxes[i]) for i in range(real)]
        return found

    def _found(self, output: np.ndarray, letterbox: Letterbox) -> list[Found]:
        corners, scores, numbers = decode(output, len(self.classes), self._threshold)
        placed = letterbox.undo(corners)
        return [
            (tuple(placed[i]), float(scores[i]), self.classes[int(numbers[i])])
            for i in range(len(scores))
            if 0 <= numbers[i] < len(self.classes)
        ]


def decode(output: np.ndarray, classes: int, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One picture's output to corners (n, 4) in input pixels, scores (n,) and class numbers (n,).

    output: (4 + C or more, A), a column per anchor: centre, size, a score per class, then what masks and key points
    need; or (A, 6 or more), a row per box that is already chosen: corners, score, class.
    """
    if output.shape[1] < output.shape[0]:
        chosen = output[output[:, 4] > threshold]
        return chosen[:, :4], chosen[:, 4], chosen[:, 5].astype(int)
    scores = output[4 : 4 + classes]
    numbers, best = scores.argmax(0), scores.max(0)
    hits = best > threshold
    centre, size = output[:2, hits].T, output[2:4, hits].T
    corners, best, numbers = np.concatenate([centre - size / 2, centre + size / 2], axis=1), best[hits], numbers[hits]
    # Class by class: a face inside a head is no duplicate.
    rectangles = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    kept = cv2.dnn.NMSBoxesBatched(rectangles.tolist(), best.tolist(), numbers.tolist(), threshold, NMS_IOU)
    order = np.asarray(kept, dtype=int).reshape(-1)
    return corners[order], best[order], numbers[order]


def read_names(metadata: dict[str, str], path: str) -> list[str]:
    """The class names that ultralytics writes into an export: "{0: 'face', 1: 'hand'}"."""
    try:
        names = ast.literal_eval(metadata["names"])
        return [str(names[number]) for number in sorted(names)] if isinstance(names, dict) else list(map(str, names))
    except (KeyError, ValueError, SyntaxError):
        raise SgaError(
            f"detector onnx: {path} does not name its classes (metadata {sorted(metadata)}): export it again by "
            "`yolo export model=FILE.pt format=onnx`"
        ) from None


def input_size(shape: Sequence[object], metadata: dict[str, str], imgsz: int) -> tuple[int, int]:
    """(width, height): what the graph fixes, else the size in its metadata, else imgsz. shape: N, 3, H, W."""
    if len(shape) != 4:
        raise SgaError(f"detector onnx: the model's input {list(shape)} is no picture (N, 3, H, W)")
    try:
        named = ast.literal_eval(metadata["imgsz"])
        height, width = named if isinstance(named, list | tuple) else (named, named)
    except (KeyError, ValueError, SyntaxError):
        height = width = imgsz
    return (
        shape[3] if isinstance(shape[3], int) else int(width),
        shape[2] if isinstance(shape[2], int) else int(height),
    )


def choose_providers(device: str, available: Sequence[str]) -> list[object]:
    """ONNX Runtime's execution providers for "", cpu, cuda or cuda:1; always with the CPU behind."""
    kind, _, number = device.partition(":")
    if kind not in ("", *PROVIDERS) or (number and not number.isdigit()):
        raise SgaError(f"device {device}: detector onnx runs on cpu, cuda or cuda:1")
    if kind == "cuda" and PROVIDERS["cuda"] not in available:
        raise SgaError(f"device {device}: this ONNX Runtime has no CUDA: pip install onnxruntime-gpu in its place")
    if kind == "cpu" or PROVIDERS["cuda"] not in available:
        return [PROVIDERS["cpu"]]
    return [(PROVIDERS["cuda"], {"device_id": int(number or 0)}), PROVIDERS["cpu"]]


def create(config: HsdConfig, photos: Path) -> ClassDetector:
    options = Options(config)
    models = options.model_files((".onnx",))
    thresholds, imgsz, choice = options.thresholds(0.3), options.whole("imgsz", 640, 32), ClassChoice(options)
    options.finish()
    return ClassDetector(options, models, thresholds, choice, partial(OnnxModel, imgsz=imgsz, device=config.device))
