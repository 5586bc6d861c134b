"""What an .onnx file says of itself: its input, its metadata, the shapes of its outputs. Nothing here is guessed."""

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sga_kohya.errors import SgaError
from sga_kohya.hsd.cut.geometry import Size
from sga_kohya.hsd.detectors.class_names import in_order

TASKS = ("detect", "segment", "pose")
"""ultralytics' tasks whose outputs hold upright boxes; what else they hold is passed over."""

INPUT_TYPES = {
    "tensor(float)": (np.float32, 255),
    "tensor(float16)": (np.float16, 255),
    "tensor(uint8)": (np.uint8, 1),
}
"""ONNX's name to NumPy's type and what pixels are divided by: fractions to 1, or the bytes as they are."""


@dataclass(frozen=True)
class Metadata:
    """What ultralytics, or YOLOv5's own exporter, writes into a file; every value is text."""

    values: Mapping[str, str]
    path: str

    def read(self, name: str) -> Any:
        """A Python literal; None where it is missing or is none."""
        try:
            return ast.literal_eval(self.values[name])
        except (KeyError, ValueError, SyntaxError, RecursionError, MemoryError):
            return None

    @property
    def task(self) -> str:
        return self.values.get("task", "")

    @property
    def head(self) -> str:
        return self.values.get("head", "")

    @property
    def by(self) -> str:
        """Who wrote it: "ultralytics", "yolov5", or "" for anybody else."""
        return "ultralytics" if self.task else "yolov5" if {"stride", "names"} <= set(self.values) else ""

    @property
    def is_rtdetr(self) -> bool:
        """By its head; exports before that was recorded have the name in their description."""
        description = self.values.get("description", "").lower().replace("-", "")
        return self.head == "RTDETRDecoder" if self.head else "rtdetr" in description

    @property
    def rows(self) -> bool:
        """Whether the graph itself chooses among overlapping boxes."""
        return self.read("end2end") is True or self.nms

    @property
    def nms(self) -> bool:
        arguments = self.read("args")
        return isinstance(arguments, dict) and arguments.get("nms") is True

    @property
    def stride(self) -> int:
        stride = self.read("stride")
        return stride if isinstance(stride, int) and stride > 0 else 32

    @property
    def batch(self) -> int:
        """Pictures at once that a graph with its own NMS was unrolled for."""
        batch = self.read("batch")
        return batch if isinstance(batch, int) and batch > 0 else 1

    def names(self) -> list[str] | None:
        """The class names: "{0: 'face', 1: 'hand'}"."""
        try:
            return in_order(self.read("names"))
        except (ValueError, TypeError):
            return None

    def size(self) -> Size | None:
        """(width, height), from imgsz, which is a side or [height, width]."""
        named = self.read("imgsz")
        sides = list(named) if isinstance(named, list | tuple) else [named] * 2
        if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
            return None
        return sides[1], sides[0]

    def check_task(self) -> None:
        """Raises SgaError for a model that finds no upright boxes."""
        if self.task and self.task not in TASKS:
            why = "its boxes are rotated" if self.task == "obb" else "it finds no boxes"
            raise SgaError(
                f"detector onnx: {self.path} is for the task {self.task}, {why}: use a model for {', '.join(TASKS)}"
            )


@dataclass(frozen=True)
class Input:
    """The picture that a graph takes. size: (width, height). batch: 0 for any number."""

    name: str
    size: Size
    batch: int
    channels_last: bool
    dtype: type
    divisor: int

    def pack(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """(H, W, 3) RGB uint8 each, to (N, 3, H, W) or (N, H, W, 3) of the graph's type."""
        batch = np.stack(pictures)
        batch = batch if self.channels_last else batch.transpose(0, 3, 1, 2)
        packed: np.ndarray = np.ascontiguousarray(batch, self.dtype)
        return packed if self.divisor == 1 else packed / self.dtype(self.divisor)


def read_input(inputs: Sequence[Any], metadata: Metadata, imgsz: int) -> Input:
    """inputs: ONNX Runtime's. imgsz: a side that the user asks for, 0 for the model's own. Raises SgaError."""
    path = metadata.path
    if len(inputs) != 1:
        names = ", ".join(node.name for node in inputs)
        raise SgaError(f"detector onnx: {path} takes {len(inputs)} inputs ({names}), a YOLO export one picture")
    (node,) = inputs
    if node.type not in INPUT_TYPES:
        raise SgaError(f"detector onnx: {path} takes {node.type}; known are {', '.join(INPUT_TYPES)}")
    shape = list(node.shape)
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise SgaError(f"detector onnx: {path}: the input {shape} is no picture (N, 3, H, W) or (N, H, W, 3)")
    channels_last = shape[1] != 3
    height, width = shape[1:3] if channels_last else shape[2:]
    dtype, divisor = INPUT_TYPES[node.type]
    batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else 0
    return Input(node.name, _size((width, height), metadata, imgsz), batch, channels_last, dtype, divisor)


def _size(fixed: tuple[object, object], metadata: Metadata, imgsz: int) -> Size:
    """What the graph fixes; else what the user asks for, what its metadata say or 640, up to a whole stride."""
    wanted = (imgsz, imgsz) if imgsz else metadata.size() or (640, 640)
    stride = metadata.stride
    width, height = (
        given if isinstance(given, int) and given > 0 else math.ceil(side / stride) * stride
        for given, side in zip(fixed, wanted, strict=True)
    )
    if imgsz and (width, height) != (imgsz, imgsz) and any(isinstance(given, int) for given in fixed):
        raise SgaError(
            f"detector onnx: imgsz = {imgsz}: {metadata.path} takes {width}x{height} alone: leave imgsz out, "
            "or export with dynamic=True"
        )
    return width, height


@dataclass(frozen=True)
class Head:
    """What a graph gives back. outputs: by name, of one real run. size: of its picture, (width, height)."""

    metadata: Metadata
    classes: int
    size: Size
    outputs: Mapping[str, np.ndarray]

    @property
    def position(self) -> int | None:
        """Of the one output with three dimensions: the boxes. Those with more are masks and raw heads."""
        flat = [i for i, output in enumerate(self.outputs.values()) if output.ndim == 3]
        others = any(output.ndim < 3 for output in self.outputs.values())
        return flat[0] if len(flat) == 1 and not others else None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the boxes; (0, 0) where there is no one output of them."""
        return (0, 0) if self.position is None else list(self.outputs.values())[self.position].shape[1:]

    @property
    def extra(self) -> int:
        """What stands behind the classes: coefficients of masks, or key points."""
        if self.metadata.task == "pose":
            points = self.metadata.read("kpt_shape")
            return math.prod(points) if isinstance(points, list | tuple) else 0
        masks = [output for output in self.outputs.values() if output.ndim == 4]
        return masks[0].shape[1] if len(masks) == 1 and self.metadata.task in ("", "segment") else 0

    @property
    def prototypes(self) -> int | None:
        """Position of the output that masks are mixed of, (N, e, h, w), None where there is none."""
        outputs = list(self.outputs.values())
        flat = [i for i, output in enumerate(outputs) if output.ndim == 4 and output.shape[1] == self.extra]
        return flat[0] if flat else None

    def whole(self, column: int) -> bool:
        """Whether that column of the boxes holds whole numbers alone, as class numbers are and scores are not."""
        values = list(self.outputs.values())[self.position or 0][..., column]
        return bool((values == np.round(values)).all())

    @property
    def cells(self) -> set[int]:
        """How many places a picture of this size has, by the usual sets of strides."""
        sets = ((8, 16, 32), (4, 8, 16, 32), (8, 16, 32, 64), (16, 32))
        return {sum(math.ceil(self.size[0] / s) * math.ceil(self.size[1] / s) for s in strides) for strides in sets}

    def __str__(self) -> str:
        return ", ".join(f"{name} {list(output.shape)}" for name, output in self.outputs.items())
