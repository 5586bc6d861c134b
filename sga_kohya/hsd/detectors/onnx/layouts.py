"""The outputs that detection models are exported with: a table, one function each to recognise and to read it.

A new one is a function pair and a line in LAYOUTS.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from sga_kohya.errors import SgaError
from sga_kohya.hsd.detectors.onnx.export import Head

NMS_IOU = 0.7
"""Of two boxes of one class that overlap more, the better is taken; ultralytics' own value."""


class Boxes(NamedTuple):
    """corners: (n, 4) in pixels of the input. scores, numbers: (n,), of their classes. extra: (n, e), what stands
    behind the classes, such as the coefficients of masks; None where nothing does."""

    corners: np.ndarray
    scores: np.ndarray
    numbers: np.ndarray
    extra: np.ndarray | None = None


@dataclass(frozen=True)
class Picture:
    """One picture's share of the outputs. outputs: in the graph's order, still with the batch in front."""

    outputs: Sequence[np.ndarray]
    number: int
    head: Head

    @property
    def boxes(self) -> np.ndarray:
        """(rows, columns) float32 of the output that holds the boxes."""
        return self.outputs[self.head.position or 0][self.number].astype(np.float32)

    def named(self, names: Sequence[str]) -> np.ndarray:
        """The output that has one of these names."""
        position = next(i for i, name in enumerate(self.head.outputs) if name in names)
        return self.outputs[position][self.number]


@dataclass(frozen=True)
class Layout:
    """fits: whether outputs of a head's shapes can be this. read: all boxes above a score.

    stretches: the model was trained on pictures that are pulled to its input's shape, not fitted into it.
    """

    name: str
    shape: str
    fits: Callable[[Head], bool]
    read: Callable[[Picture, float], Boxes]
    stretches: bool = False


# --- a column an anchor: YOLOv8 to 12, 26, v5u ----------------------------------------------------------------------


def is_anchors(head: Head) -> bool:
    # A picture of 32 pixels has 21 anchors.
    return head.shape[0] == 4 + head.classes + head.extra and head.shape[1] >= 21


def read_anchors(picture: Picture, threshold: float) -> Boxes:
    output, classes = picture.boxes, picture.head.classes
    in_pixels(output[:4].T, picture.head)
    return chosen(output[:4].T, output[4 : 4 + classes].T, threshold, output[4 + classes :].T)


# --- a row an anchor, with objectness: YOLOv5, YOLOv7 ---------------------------------------------------------------


def is_objectness(head: Head) -> bool:
    return head.shape[1] == 5 + head.classes + head.extra


def read_objectness(picture: Picture, threshold: float) -> Boxes:
    output, classes = picture.boxes, picture.head.classes
    in_pixels(output[:, :4], picture.head)
    return chosen(output[:, :4], output[:, 4:5] * output[:, 5 : 5 + classes], threshold, output[:, 5 + classes :])


# --- boxes that the graph has chosen: YOLOv10 and 26 end to end, nms=True -------------------------------------------


def is_rows(head: Head) -> bool:
    return head.shape[1] == 6 + head.extra and head.whole(5)


def read_rows(picture: Picture, threshold: float) -> Boxes:
    output = picture.boxes
    hits = output[output[:, 4] > threshold]
    return Boxes(hits[:, :4], hits[:, 4], hits[:, 5], hits[:, 6:])


# --- RT-DETR: queries in shares of the picture ----------------------------------------------------------------------


def is_queries(head: Head) -> bool:
    # With two classes it has six columns, as chosen boxes have; but its last is a score.
    return head.shape[1] == 4 + head.classes and not (head.classes == 2 and head.whole(5))


def read_queries(picture: Picture, threshold: float) -> Boxes:
    output = picture.boxes
    numbers, best = output[:, 4:].argmax(1), output[:, 4:].max(1)
    hits = best > threshold
    return Boxes(in_shares(output[hits, :4], picture.head), best[hits], numbers[hits])


def is_chosen_queries(head: Head) -> bool:
    return head.shape[1] == 6 and head.whole(5)


def read_chosen_queries(picture: Picture, threshold: float) -> Boxes:
    output = picture.boxes
    hits = output[output[:, 4] > threshold]
    return Boxes(in_shares(hits[:, :4], picture.head), hits[:, 4], hits[:, 5])


# --- one list for the whole batch: YOLOv7 end to end ----------------------------------------------------------------


def is_list(head: Head) -> bool:
    return [output.shape[1:] for output in head.outputs.values()] == [(7,)]


def read_list(picture: Picture, threshold: float) -> Boxes:
    """Rows of number in the batch, corners, class, score."""
    output = picture.outputs[0].astype(np.float32)
    hits = output[(output[:, 0] == picture.number) & (output[:, 6] > threshold)]
    return Boxes(hits[:, 1:5], hits[:, 6], hits[:, 5])


# --- four outputs, as EfficientNMS has them -------------------------------------------------------------------------

COUNTED = (
    ("num_dets", "num_detections"),
    ("det_boxes", "bboxes", "boxes"),
    ("det_scores", "scores"),
    ("det_classes", "labels", "classes"),
)
"""Not TensorFlow's detection_boxes: those stand top first, in shares of the picture."""


def is_counted(head: Head) -> bool:
    return len(head.outputs) == 4 and all(any(name in names for name in head.outputs) for names in COUNTED)


def read_counted(picture: Picture, threshold: float) -> Boxes:
    count, corners, scores, numbers = map(picture.named, COUNTED)
    scores = scores.astype(np.float32).reshape(-1)
    hits = (scores > threshold) & (np.arange(len(scores)) < int(count.reshape(-1)[0]))
    return Boxes(corners.astype(np.float32)[hits], scores[hits], numbers.reshape(-1)[hits])


LAYOUTS = (
    Layout("anchors", "[N, 4+C, A]", is_anchors, read_anchors),
    Layout("objectness", "[N, A, 5+C]", is_objectness, read_objectness),
    Layout("rows", "[N, n, 6]", is_rows, read_rows),
    Layout("queries", "[N, n, 4+C]", is_queries, read_queries, stretches=True),
    Layout("chosen-queries", "[N, n, 6]", is_chosen_queries, read_chosen_queries, stretches=True),
    Layout("list", "[n, 7]", is_list, read_list),
    Layout("counted", "num_dets, det_boxes, det_scores, det_classes", is_counted, read_counted),
)
NAMES = tuple(layout.name for layout in LAYOUTS)


def choose(head: Head, asked: str) -> Layout:
    """asked: a layout's name, "" for what the file's metadata and shapes leave. Raises SgaError for none or several."""
    path, fitting = head.metadata.path, [layout for layout in LAYOUTS if layout.fits(head)]
    if asked:
        found = [layout for layout in fitting if layout.name == asked]
    else:
        found = [layout for layout in fitting if layout.name in allowed(head)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{layout.name} {layout.shape}" for layout in LAYOUTS)
    outputs = f"{path}: its output ({head}), with {head.classes} classes,"
    if asked:
        raise SgaError(f"detector onnx: {outputs} cannot be {asked}; the layouts are {known}")
    if not fitting:
        raise SgaError(f"detector onnx: {outputs} is none of the layouts {known}")
    names = " or ".join(layout.name for layout in fitting)
    raise SgaError(
        f"detector onnx: {outputs} could be {names}, and its metadata do not say which: give layout=NAME, if you know "
        f"what made it ({known}), or export it again with ultralytics"
    )


def allowed(head: Head) -> set[str]:
    """The layouts that a file with these metadata can have; its outputs decide among them."""
    metadata = head.metadata
    if metadata.is_rtdetr:
        return {"queries", "chosen-queries"}
    if metadata.rows:
        return {"rows"}
    if metadata.head:
        return {"anchors", "rows"}
    if metadata.by == "ultralytics":
        return {"anchors", "rows", "queries"}
    if metadata.by == "yolov5":
        return {"objectness"}
    # Of an unknown maker: three anchors a place are YOLOv5's and v7's, one is also YOLOX's, in units of its own.
    v5 = {"objectness"} if head.shape[0] in {3 * cells for cells in head.cells} else set()
    return {"anchors", "rows", "list", "counted"} | v5


def in_pixels(centres: np.ndarray, head: Head) -> None:
    """centres: (A, 4), one for each place in the picture. Raises SgaError where none lies beyond its first pixels."""
    if centres.size and np.nanmax(centres[:, :2]) <= 2:
        raise SgaError(f"detector onnx: {head.metadata.path} gives boxes in shares of the picture, not in pixels")


def in_shares(centres: np.ndarray, head: Head) -> np.ndarray:
    """(n, 4) centre and size in shares of the picture, to corners in pixels. Raises SgaError for other units."""
    if centres.size and np.nanmax(np.abs(centres)) > 2:
        raise SgaError(f"detector onnx: {head.metadata.path} gives boxes in pixels, not in shares of the picture")
    return to_corners(centres * np.array(head.size * 2, np.float32))


def to_corners(centres: np.ndarray) -> np.ndarray:
    """(n, 4): centre and size to corners."""
    centre, half = centres[:, :2], centres[:, 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def chosen(centres: np.ndarray, scores: np.ndarray, threshold: float, extra: np.ndarray) -> Boxes:
    """The best class of each place above the threshold, without lesser ones of that class nearby.

    centres: (A, 4), centre and size. scores: (A, C). extra: (A, e).
    """
    numbers, best = scores.argmax(1), scores.max(1)
    hits = best > threshold
    corners, best, numbers, extra = to_corners(centres[hits]), best[hits], numbers[hits], extra[hits]
    # Class by class: a face inside a head is no duplicate.
    rectangles = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    kept = cv2.dnn.NMSBoxesBatched(rectangles.tolist(), best.tolist(), numbers.tolist(), threshold, NMS_IOU)
    order = np.asarray(kept, dtype=int).reshape(-1)
    return Boxes(corners[order], best[order], numbers[order], extra[order])
