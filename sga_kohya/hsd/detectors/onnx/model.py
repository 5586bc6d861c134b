"""The detector `onnx`: a view in, boxes out, by the layout that the file turns out to have."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sga_kohya.errors import SgaError
from sga_kohya.hsd.cut.geometry import Box
from sga_kohya.hsd.detect import View
from sga_kohya.hsd.detectors.class_names import read_classes
from sga_kohya.hsd.detectors.classes import ClassDetector, Thing
from sga_kohya.hsd.detectors.labels import ClassChoice
from sga_kohya.hsd.detectors.letterbox import GREY, Letterbox, Stretch, chunks
from sga_kohya.hsd.detectors.onnx.export import Head, Metadata, read_input
from sga_kohya.hsd.detectors.onnx.layouts import NAMES, Boxes, Picture, choose
from sga_kohya.hsd.detectors.options import Options
from sga_kohya.hsd.devices import ACCELERATOR_BATCH, own
from sga_kohya.kit.extras import library
from sga_kohya.kit.values import existing, one_of, whole

PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}


class OnnxModel:
    def __init__(
        self,
        path: str,
        threshold: float,
        imgsz: int,
        device: str,
        layout: str = "",
        classes: Path | None = None,
        masks: bool = False,
    ) -> None:
        """imgsz: side of the square input, for a model that accepts any; 0 for its own. masks: whether they are wanted.

        layout, classes: what a file by another maker does not say of itself. One run on a grey picture shows the
        outputs, so that a model which cannot be read is refused before any photo is. Raises SgaError.
        """
        self._path, self._threshold = path, threshold
        self._session = load(path, device)
        metadata = Metadata(self._session.get_modelmeta().custom_metadata_map, path)
        metadata.check_task()
        self._input = read_input(self._session.get_inputs(), metadata, imgsz)
        self.classes: Sequence[str] = class_names(metadata, classes)
        self._batch = self._input.batch or self._free_batch(metadata)
        outputs = self._run([np.full((*self._input.size[::-1], 3), GREY, np.uint8)] * self._batch)
        names = [output.name for output in self._session.get_outputs()]
        self._head = Head(metadata, len(self.classes), self._input.size, dict(zip(names, outputs, strict=True)))
        self._layout = choose(self._head, layout)
        self._fit = Stretch if self._layout.stretches else Letterbox
        boxes = self._boxes(outputs, 0)
        drawable = boxes.extra is not None and boxes.extra.shape[1] > 0
        self._prototypes = self._head.prototypes if masks and drawable else None
        self.draws_masks = self._prototypes is not None

    def predict(self, views: Sequence[View]) -> list[list[Thing]]:
        found = []
        for chunk, real in chunks(views, self._batch):
            fits = [self._fit(view.size, self._input.size) for view in chunk]
            outputs = self._run([fit.apply(view.pixels) for fit, view in zip(fits, chunk, strict=True)])
            found += [self._found(outputs, i, fits[i]) for i in range(real)]
        return found

    def _free_batch(self, metadata: Metadata) -> int:
        """Pictures at once where the graph takes any number; one with its own NMS does as many as it was made for."""
        if metadata.nms:
            return metadata.batch
        return 1 if self._session.get_providers()[0] == PROVIDERS["cpu"] else ACCELERATOR_BATCH

    def _run(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        try:
            return self._session.run(None, {self._input.name: self._input.pack(pictures)})
        except Exception as error:  # ONNX Runtime's own exceptions have no common base
            raise SgaError(f"detector onnx: {self._path} fails on a picture: {first_line(error)}") from error

    def _found(self, outputs: Sequence[np.ndarray], number: int, fit: Stretch) -> list[Thing]:
        boxes = self._boxes(outputs, number)
        placed = fit.undo(boxes.corners)
        return [
            Thing(
                tuple(placed[i]),
                float(boxes.scores[i]),
                self.classes[int(boxes.numbers[i])],
                self._drawing(boxes, i, outputs, number, fit),
            )
            for i in range(len(boxes.scores))
        ]

    def _drawing(
        self, boxes: Boxes, i: int, outputs: Sequence[np.ndarray], number: int, fit: Stretch
    ) -> Callable[[Box], np.ndarray] | None:
        """What draws the i-th thing: the prototypes of its picture, mixed by its coefficients, above zero inside it."""
        if self._prototypes is None or boxes.extra is None:
            return None
        prototypes, mix = outputs[self._prototypes][number].astype(np.float32), boxes.extra[i]

        def draw(box: Box) -> np.ndarray:
            return (fit.undo_map(np.tensordot(mix, prototypes, 1), box) > 0).astype(np.uint8) * 255

        return draw

    def _boxes(self, outputs: Sequence[np.ndarray], number: int) -> Boxes:
        """Raises SgaError for what boxes cannot be: the file then is of another kind than it says."""
        boxes = self._layout.read(Picture(outputs, number, self._head), self._threshold)
        scores, numbers = boxes.scores, boxes.numbers
        if len(scores) and not scores.max() <= 1.001:
            raise self._misread(f"a score of {scores.max():g}, above 1")
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(self.classes)):
            raise self._misread(f"class number {numbers.max():g}, of {len(self.classes)} names")
        return boxes

    def _misread(self, what: str) -> SgaError:
        return SgaError(
            f"detector onnx: {self._path}, read as {self._layout.name} {self._layout.shape}, gives {what}: it is of "
            f"another kind. Give layout=NAME ({', '.join(NAMES)}), or export it again with ultralytics"
        )


def load(path: str, device: str, who: str = "detector onnx") -> Any:
    """An ONNX Runtime session. who: wants it, for messages. Raises SgaError in one line."""
    runtime = library("onnxruntime", "onnx", who)
    providers = choose_providers(device, runtime.get_available_providers(), who)
    try:
        return runtime.InferenceSession(path, providers=providers)
    except Exception as error:  # ONNX Runtime's own exceptions have no common base
        advice = ": it is made for TensorRT alone, export it again without that" if "TRT" in str(error) else ""
        raise SgaError(f"{who}: cannot load {path}: {first_line(error)}{advice}") from error


def class_names(metadata: Metadata, file: Path | None) -> list[str]:
    """The file's own names, else those in `file`. Raises SgaError without any."""
    names = metadata.names() or (read_classes(file, "onnx") if file else None)
    if not names:
        raise SgaError(
            f"detector onnx: {metadata.path} does not name its classes (metadata {sorted(metadata.values)}): give "
            "classes=FILE, a name a line or a data.yaml, or export it again by `yolo export model=FILE.pt format=onnx`"
        )
    return names


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def choose_providers(device: str, available: Sequence[str], who: str = "detector onnx") -> list[object]:
    """ONNX Runtime's execution providers for "", cpu, cuda or cuda:1; always with the CPU behind."""
    kind, _, number = device.partition(":")
    if kind not in ("", *PROVIDERS) or (number and not number.isdigit()):
        raise SgaError(f"device {device}: {who} runs on cpu, cuda or cuda:1")
    if kind == "cuda" and PROVIDERS["cuda"] not in available:
        raise SgaError(f"device {device}: this ONNX Runtime has no CUDA: pip install onnxruntime-gpu in its place")
    if kind == "cpu" or PROVIDERS["cuda"] not in available:
        return [PROVIDERS["cpu"]]
    number = number or own("cuda").partition(":")[2]
    return [(PROVIDERS["cuda"], {"device_id": int(number or 0)}), PROVIDERS["cpu"]]


def create(options: Options, photos: Path) -> ClassDetector:
    models, thresholds = options.model_files(".onnx"), options.thresholds(0.3)
    imgsz, choice = options.read("imgsz", whole(32), 0), ClassChoice(options)
    layouts = options.per_level("layout", one_of(NAMES), lambda level: "")
    classes = options.per_level("classes", existing, lambda level: None)
    options.finish()
    own = {models[level]: (layouts[level], classes[level]) for level in reversed(options.levels) if level in models}
    return ClassDetector(
        options,
        models,
        thresholds,
        choice,
        lambda path, threshold: OnnxModel(path, threshold, imgsz, options.device, *own[path], options.masks),
    )
