"""The detector `onnx` on graphs made on the spot, of every layout of exports, and on ultralytics' own exports."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from sga_kohya.errors import SgaError
from sga_kohya.hsd import Box, HsdConfig, View
from sga_kohya.hsd.detect import Detection, Detector
from sga_kohya.hsd.kits import make_detector

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from sga_kohya.hsd.detectors.onnx.model import choose_providers  # noqa: E402

SIZES = ((640, 480), (300, 500), (111, 77), (1000, 90))
NAMES = {0: "face", 1: "person"}
SIDE, CELLS = 64, 84  # 8 x 8 + 4 x 4 + 2 x 2


def detector(kind: str = "onnx", masks: str = "", **options: object) -> Detector:
    named = {key.replace("__", "."): value for key, value in options.items()}
    config = HsdConfig(detector=kind, detector_options=named, mode="whole", device="cpu", masks=masks)
    return make_detector(config, Path("photos"))


def whole(pixels: np.ndarray, source: str = "a/b.jpg") -> View:
    size = pixels.shape[1::-1]
    return View(pixels, source, Box.whole(size), size)


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def photo_with(box: Box, size: tuple[int, int]) -> np.ndarray:
    """Grey, with one red rectangle."""
    pixels = np.full((size[1], size[0], 3), 90, np.uint8)
    pixels[box.y0 : box.y1, box.x0 : box.x1] = (255, 0, 0)
    return pixels


def assert_close(found: Box, expected: Box, pixels: float) -> None:
    assert np.abs(np.subtract(found.as_list(), expected.as_list())).max() <= pixels, (found, expected)


# --- graphs -------------------------------------------------------------------------------------------------------

Graph = tuple[list, list]
"""Nodes from the input "images", and constants."""


@pytest.fixture
def onnx_file(tmp_path):
    """Writes a model. inputs: shapes by name; outputs: names."""

    def write(
        graph: Graph,
        metadata: Mapping[str, str],
        outputs: Sequence[str] = ("output0",),
        inputs: Mapping[str, Sequence[int | str]] | None = None,
        kind: int = TensorProto.FLOAT,
    ) -> str:
        inputs = inputs or {"images": (1, 3, SIDE, SIDE)}
        model = helper.make_model(
            helper.make_graph(
                graph[0],
                "tiny",
                [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
                [helper.make_empty_tensor_value_info(name) for name in outputs],
                graph[1],
            ),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
        helper.set_model_props(model, dict(metadata))
        path = tmp_path / f"tiny{len(list(tmp_path.iterdir()))}.onnx"
        # Without a look at shapes: outputs of an unknown shape are what is written here.
        path.write_bytes(model.SerializeToString())
        return str(path)

    return write


def planted(**outputs: np.ndarray) -> Graph:
    """These values, whatever the picture."""
    nodes = [helper.make_node("Identity", [f"planted_{name}"], [name]) for name in outputs]
    return nodes, [numpy_helper.from_array(values, f"planted_{name}") for name, values in outputs.items()]


def red_finder(picture: str = "images") -> Graph:
    """[N, 8, 6], end to end: the first row is the bounding box of what is red, score 0.75, class 1."""
    constants = {
        "weights": np.array([1, -1, 0], np.float32).reshape(1, 3, 1, 1),
        "half": np.array(0.5, np.float32),
        "one": np.array(1, np.float32),
        "tail": np.array([[0.75, 1]], np.float32),
        "rows": np.array([0, 0, 0, 0, 7, 0], np.int64),
        "last": np.array([1], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Conv", [picture, "weights"], ["redness"]),
        node("Greater", ["redness", "half"], ["is_red"]),
        node("Cast", ["is_red"], ["mask"], to=1),
        node("ReduceMax", ["mask"], ["columns"], axes=[1, 2], keepdims=0),
        node("ReduceMax", ["mask"], ["lines"], axes=[1, 3], keepdims=0),
    ]
    for name, values in (("x", "columns"), ("y", "lines")):
        for end, last in (("0", 0), ("1", 1)):
            nodes.append(node("ArgMax", [values], [f"i{name}{end}"], axis=1, keepdims=1, select_last_index=last))
            nodes.append(node("Cast", [f"i{name}{end}"], [f"{name}{end}" if not last else f"f{name}1"], to=1))
        nodes.append(node("Add", [f"f{name}1", "one"], [f"{name}1"]))
    nodes += [
        node("Concat", ["x0", "y0", "x1", "y1"], ["corners"], axis=1),
        node("Mul", ["x0", "half"], ["something"]),
        node("Sub", ["something", "something"], ["zero"]),  # (N, 1), to give the tail its batch dimension
        node("Add", ["zero", "tail"], ["tails"]),
        node("Concat", ["corners", "tails"], ["row"], axis=1),
        node("Unsqueeze", ["row", "last"], ["box"]),
        node("Pad", ["box", "rows"], ["output0"]),
    ]
    return nodes, [numpy_helper.from_array(value, name) for name, value in constants.items()]


# --- every layout says the same two boxes -------------------------------------------------------------------------

FOUND = [((8, 16, 24, 48), 0.875, 0), ((32, 8, 60, 60), 0.5, 1)]
"""Corners, score and class, in a picture of SIDE pixels: a face and a person."""

EXPECTED = [
    Detection(Box(8, 16, 24, 48), 0.875, "micro", "face"),
    Detection(Box(32, 8, 60, 60), 0.5, "micro", "person"),
]


def centres(corners: Sequence[float], unit: float = 1) -> list[float]:
    x0, y0, x1, y1 = corners
    return [(x0 + x1) / 2 / unit, (y0 + y1) / 2 / unit, (x1 - x0) / unit, (y1 - y0) / unit]


def per_class(count: int, number: int, score: float, rest: float = 0.125) -> list[float]:
    """Scores of all classes, not whole numbers, of which one is the best."""
    return [score if i == number else rest * score for i in range(count)]


def table(rows: Sequence[Sequence[float]], length: int) -> np.ndarray:
    """(1, length, columns), rows of nothing behind."""
    values = np.zeros((1, length, len(rows[0])), np.float32)
    values[0, : len(rows)] = rows
    return values


def anchors(classes: int, extra: int = 0) -> np.ndarray:
    # What stands behind the scores exceeds any of them.
    rows = [[*centres(box), *per_class(classes, number, score), *[5.0] * extra] for box, score, number in FOUND]
    return table(rows, CELLS).transpose(0, 2, 1).copy()


def objectness(classes: int, length: int = 3 * CELLS) -> np.ndarray:
    rows = [[*centres(box), score, *per_class(classes, number, 1.0)] for box, score, number in FOUND]
    # As sure to be something, and nothing that is known.
    return table([*rows, [*centres((0, 0, 64, 64)), 0.97, *[0.125] * classes]], length)


def rows(length: int, extra: int = 0) -> np.ndarray:
    return table([[*box, score, number, *[5.0] * extra] for box, score, number in FOUND], length)


def queries(classes: int) -> np.ndarray:
    found = [[*centres(box, SIDE), *per_class(classes, number, score)] for box, score, number in FOUND]
    return table([*found, *[[0.5, 0.5, 0.9, 0.9, *[0.0625] * classes]] * 298], 300)


def chosen_queries() -> np.ndarray:
    found = [[*centres(box, SIDE), score, number] for box, score, number in FOUND]
    return table([*found, *[[0.5, 0.5, 0.9, 0.9, 0.0625, 1]] * 298], 300)


def named(classes: int) -> dict[str, str]:
    return {"names": repr(NAMES | {i: f"thing {i}" for i in range(2, classes)})}


ULTRALYTICS = {"task": "detect", "stride": "32", "description": "Ultralytics best model", "imgsz": "[64, 64]"}
V8_HEAD, RTDETR_HEAD = {"head": "Detect", "end2end": "False"}, {"head": "RTDETRDecoder", "end2end": "False"}
NMS = {"args": "{'batch': 1, 'nms': True}"}
OTHERS = [[1, 0, 0, 64, 64, 0, 0.97]]
"""What is found in the second picture of a batch."""

CASES = {
    "v8": (named(2) | ULTRALYTICS, {"output0": anchors(2)}),
    "v8 of many classes": (named(80) | ULTRALYTICS | V8_HEAD, {"output0": anchors(80)}),
    "v8 by another tool": (named(2), {"output0": anchors(2)}),
    "segment": (
        named(2) | ULTRALYTICS | {"task": "segment"},
        {"output0": anchors(2, 32), "output1": np.zeros((1, 32, 16, 16), np.float32)},
    ),
    "pose": (named(2) | ULTRALYTICS | {"task": "pose", "kpt_shape": "[17, 3]"}, {"output0": anchors(2, 51)}),
    "v5": (named(2) | {"stride": "32"}, {"output0": objectness(2)}),
    "v5 of one level more, with its raw heads": (
        named(3) | {"stride": "64"},
        {"output0": objectness(3, 255), "340": np.zeros((1, 3, 8, 8, 8), np.float32)},
    ),
    "v5 without a word": (named(2), {"output0": objectness(2)}),
    "v10": (named(2) | ULTRALYTICS | {"description": "Ultralytics YOLOv10n model"}, {"output0": rows(300)}),
    "v26": (named(80) | ULTRALYTICS | {"head": "Detect", "end2end": "True"}, {"output0": rows(300)}),
    "nms": (named(2) | ULTRALYTICS | V8_HEAD | NMS, {"output0": rows(300)}),
    "nms with few boxes": (named(2) | ULTRALYTICS | NMS, {"output0": rows(2)}),
    "nms with as many boxes as columns": (named(2) | ULTRALYTICS | NMS, {"output0": rows(6)}),
    "nms of an older version": (named(2) | ULTRALYTICS, {"output0": rows(5)}),
    "nms and as many boxes as a raw head has rows": (named(80) | ULTRALYTICS | NMS, {"output0": rows(84)}),
    "nms with key points": (
        named(2) | ULTRALYTICS | NMS | {"task": "pose", "kpt_shape": "[17, 3]"},
        {"output0": rows(300, 51)},
    ),
    "rt-detr": (named(5) | ULTRALYTICS | {"description": "Ultralytics rtdetr-l model"}, {"output0": queries(5)}),
    "rt-detr of two classes": (named(2) | ULTRALYTICS, {"output0": queries(2)}),
    "rt-detr as of 2026": (named(80) | ULTRALYTICS | RTDETR_HEAD, {"output0": chosen_queries()}),
    "rt-detr as of 2026, of two classes": (named(2) | ULTRALYTICS | RTDETR_HEAD, {"output0": chosen_queries()}),
    "v7 end to end": (
        named(2),
        {"output": np.array([[0, *box, number, score] for box, score, number in FOUND] + OTHERS, np.float32)},
    ),
    "efficient nms": (
        named(2),
        {
            "num_dets": np.array([[2]], np.int32),
            "det_boxes": np.array([[*(box for box, *_ in FOUND), *[(0, 0, 64, 64)] * 7]], np.float32),
            "det_scores": np.array([[0.875, 0.5, *[0.97] * 7]], np.float32),  # only two of them count
            "det_classes": np.array([[0, 1, *[0] * 7]], np.int32),
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_layout_is_read_for_what_it_is(case, onnx_file):
    metadata, outputs = CASES[case]
    model = detector(model=onnx_file(planted(**outputs), metadata, tuple(outputs)), labels="face,person", threshold=0.3)
    assert model.detect([whole(noise(SIDE, SIDE))], "micro") == [EXPECTED]


@pytest.mark.parametrize(("case", "box"), [("v8", Box(16, 0, 48, 64)), ("rt-detr", Box(16, 16, 48, 48))])
def test_a_view_is_fitted_into_the_square_or_stretched_as_the_model_was_trained(case, box, onnx_file):
    metadata, outputs = CASES[case]
    model = detector(model=onnx_file(planted(**outputs), metadata), labels="face")
    # 128 x 64 fits into 64 x 64 at half its size, 16 rows lower; stretched it takes up all of it.
    assert model.detect([whole(noise(128, 64))], "micro")[0][0].box == box


def test_what_a_file_does_not_say_the_user_may(onnx_file, tmp_path):
    (tmp_path / "classes.txt").write_text("face\nperson\n")
    path = onnx_file(planted(output=objectness(2, CELLS)), {}, ("output",))  # v6, or YOLOX in units of its own
    with pytest.raises(SgaError, match="does not name its classes .*: give classes=FILE"):
        detector(model=path)
    with pytest.raises(SgaError, match=r"output \[1, 84, 7\].* could be objectness, .*: give layout=NAME"):
        detector(model=path, classes=tmp_path / "classes.txt")
    with pytest.raises(SgaError, match=r"output \[1, 84, 7\].* cannot be rows; the layouts are anchors "):
        detector(model=path, classes=tmp_path / "classes.txt", layout="rows")
    with pytest.raises(SgaError, match="layout = 'yolo': write one of anchors, objectness, rows"):
        detector(model=path, layout="yolo")
    model = detector(model=path, classes=tmp_path / "classes.txt", layout="objectness", labels="face,person")
    assert model.detect([whole(noise(SIDE, SIDE))], "micro") == [EXPECTED]


LOGITS = {"output0": anchors(2) * np.array([1, 1, 1, 1, 20, 20], np.float32)[:, None]}
SHARES = {"output0": anchors(2) * np.array([1 / SIDE] * 4 + [1, 1], np.float32)[:, None]}


@pytest.mark.parametrize(
    ("metadata", "outputs", "words"),
    [
        (named(2) | {"task": "classify"}, {"output0": np.zeros((1, 2), np.float32)}, "for the task classify, it finds"),
        (named(2) | {"task": "obb"}, {"output0": anchors(2, 1)}, "for the task obb, its boxes are rotated"),
        (named(2) | {"task": "semantic"}, {"output0": np.zeros((1, 64, 64), np.float32)}, "for the task semantic"),
        (named(2), {"output0": np.zeros((1, 2), np.float32)}, r"output0 \[1, 2\]\), with 2 classes, is none of"),
        (named(2), {"output0": anchors(3)}, r"output0 \[1, 7, 84\]\), with 2 classes, is none of the layouts anchors"),
        (named(2), {"a": rows(3), "b": rows(4)}, r"a \[1, 3, 6\], b \[1, 4, 6\]\), with 2 classes, is none of"),
        (named(5), {"output0": queries(5)}, "could be queries, and its metadata do not say"),
        (named(2) | ULTRALYTICS, LOGITS, "read as anchors .* gives a score of 17.5, above 1"),
        (named(2) | ULTRALYTICS, SHARES, "gives boxes in shares of the picture, not in pixels"),
        (
            named(3) | ULTRALYTICS | RTDETR_HEAD,
            {"output0": queries(3) * np.array([SIDE] * 4 + [1] * 3, np.float32)},
            "gives boxes in pixels, not in shares",
        ),
        (named(1) | {"names": "{0: 'face'}"} | NMS, {"output0": rows(9)}, "gives class number 1, of 1 names"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name_before_any_photo_is_read(metadata, outputs, words, onnx_file):
    path = onnx_file(planted(**outputs), metadata, tuple(outputs))
    with pytest.raises(SgaError, match=words) as error:
        detector(model=path, labels="face")
    assert "\n" not in str(error.value) and path in str(error.value)


@pytest.mark.parametrize(
    ("inputs", "kind", "words"),
    [
        ({"images": (1, 3, 64, 64), "orig_target_sizes": (1, 2)}, TensorProto.FLOAT, "takes 2 inputs"),
        ({"images": (1, 3, 64, 64)}, TensorProto.INT8, r"takes tensor\(int8\); known are tensor\(float\)"),
        ({"images": (1, 1, 64, 64)}, TensorProto.FLOAT, r"the input \[1, 1, 64, 64\] is no picture"),
        ({"images": (1, 12288)}, TensorProto.FLOAT, r"the input \[1, 12288\] is no picture"),
    ],
)
def test_an_input_that_is_no_picture_is_refused_by_name(inputs, kind, words, onnx_file):
    with pytest.raises(SgaError, match=words):
        detector(model=onnx_file(planted(output0=anchors(2)), named(2), inputs=inputs, kind=kind), labels="face")


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.FLOAT, TensorProto.FLOAT16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_pictures_are_given_in_the_order_and_the_type_that_a_model_takes(kind, channels_last, onnx_file):
    nodes, constants = red_finder("picture")
    before = [helper.make_node("Cast", ["images"], ["floats"], to=1)]
    if kind == TensorProto.UINT8:
        constants.append(numpy_helper.from_array(np.array(255, np.float32), "white"))
        before.append(helper.make_node("Div", ["floats", "white"], ["scaled"]))
    else:
        before.append(helper.make_node("Identity", ["floats"], ["scaled"]))
    order = [0, 3, 1, 2] if channels_last else [0, 1, 2, 3]
    before.append(helper.make_node("Transpose", ["scaled"], ["picture"], perm=order))
    shape = (1, 32, 64, 3) if channels_last else (1, 3, 32, 64)
    path = onnx_file((before + nodes, constants), named(2), inputs={"images": shape}, kind=kind)
    (found,) = detector(model=path, labels="person").detect(
        [whole(photo_with(Box(40, 20, 80, 60), (128, 64)))], "micro"
    )
    assert_close(found[0].box, Box(40, 20, 80, 60), 2)


def test_a_size_is_asked_for_where_the_model_takes_any_and_refused_where_it_does_not(onnx_file):
    free = {"images": (1, 3, "height", "width")}
    metadata = named(2) | ULTRALYTICS | {"imgsz": "[320, 640]"}

    def size(path: str, **options: object) -> tuple[int, int]:
        (model,) = detector(model=path, labels="face", **options)._loaded.values()
        return model._input.size

    path = onnx_file(red_finder(), metadata, inputs=free)
    assert size(path) == (640, 320) and size(path, imgsz=100) == (128, 128)
    assert size(onnx_file(red_finder(), named(2), inputs=free)) == (640, 640)
    fixed = onnx_file(red_finder(), named(2))
    assert size(fixed) == size(fixed, imgsz=64) == (64, 64)
    with pytest.raises(SgaError, match="imgsz = 320: .* takes 64x64 alone"):
        size(fixed, imgsz=320)


def test_a_model_with_its_own_nms_is_given_as_many_pictures_as_it_was_made_for(onnx_file):
    metadata = named(2) | ULTRALYTICS | NMS | {"batch": "3"}
    path = onnx_file(red_finder(), metadata, inputs={"images": ("batch", 3, SIDE, SIDE)})
    (model,) = detector(model=path, labels="person")._loaded.values()
    assert model._batch == 3


def test_class_numbers_that_are_written_as_text_are_numbers_and_gaps_stay(onnx_file):
    names = {str(i): f"class{i}" for i in range(12) if i != 5} | {"0": "face", "2": "person"}
    boxes = table([[*box, score, 2 * number] for box, score, number in FOUND], 300)
    path = onnx_file(planted(output0=boxes), {"names": repr(names)} | NMS)
    assert detector(model=path, labels="face,person").detect([whole(noise(SIDE, SIDE))], "micro") == [EXPECTED]


# --- as a detector ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "side"), [("batch", 64), (1, 64), (3, 320), ("batch", "side")])
def test_onnx_finds_what_is_in_the_photo_where_it_is(onnx_file, batch, side):
    metadata = {"names": "{0: 'hand', 1: 'face'}"} | ({"imgsz": "[320, 320]"} if side == "side" else {})
    path = onnx_file(red_finder(), metadata, inputs={"images": (batch, 3, side, side)})
    boxes = [Box(200, 120, 320, 400), Box(0, 250, 150, 500), Box(50, 20, 111, 77), Box(800, 0, 1000, 90)]
    views = [whole(photo_with(box, size)) for box, size in zip(boxes, SIZES, strict=True)]
    found = detector(model=path).detect(views, "micro")
    for (detection,), box, size in zip(found, boxes, SIZES, strict=True):
        pixel = max(size) / (320 if side == "side" else side)  # of the network, in pixels of the photo
        assert_close(detection.box, box, 1 + pixel)
        assert (detection.score, detection.label, detection.level) == (0.75, "face", "micro")


def test_onnx_results_do_not_depend_on_the_batch(onnx_file):
    model = detector(model=onnx_file(red_finder(), named(2), inputs={"images": (3, 3, SIDE, SIDE)}), labels="person")
    views = [whole(photo_with(Box(i, i, i + 60, i + 30), (200, 100))) for i in range(5)]
    together = model.detect(views, "micro")
    assert all(together)
    assert [model.detect([view], "micro")[0] for view in views] == together
    assert together == model.detect(views[::-1], "micro")[::-1]


def raw(*columns: Sequence[float]) -> Graph:
    """[1, 4+C, A]: centre, size and class scores."""
    return planted(output0=table(columns, CELLS).transpose(0, 2, 1).copy())


def test_onnx_duplicates_of_a_class_go(onnx_file):
    path = onnx_file(
        raw(
            (32, 32, 16, 8, 0.9, 0.1),  # a face
            (33, 32, 16, 8, 0.8, 0.1),  # the same again
            (32, 32, 16, 8, 0.1, 0.6),  # a hand in the same place is no duplicate
            (10, 32, 8, 8, 0.2, 0.1),  # below the threshold
        ),
        {"names": "{0: 'face', 1: 'hand'}"},
    )
    (found,) = detector(model=path).detect([whole(noise(128, 64))], "micro")
    assert found == [
        Detection(Box(48, 24, 80, 40), 0.9, "micro", "face"),
        Detection(Box(48, 24, 80, 40), 0.6, "micro", "hand"),
    ]
    (found,) = detector(model=path, threshold__micro=0.15, labels__micro="face").detect(
        [whole(noise(128, 64))], "micro"
    )
    assert [d.box for d in found] == [Box(48, 24, 80, 40), Box(12, 24, 28, 40)]


def test_one_onnx_model_per_level(onnx_file):
    face = onnx_file(raw((32, 32, 16, 8, 0.9)), {"names": "['anime_face']"})
    person = onnx_file(raw((32, 32, 60, 30, 0.8)), {"names": "{0: 'person'}"})
    model = detector(model__meso=person, model__micro=face)
    labels = {level: model.detect([whole(noise(64, 64))], level)[0][0].label for level in ("meso", "micro")}
    assert labels == {"meso": "person", "micro": "anime_face"}


def test_a_model_that_serves_two_levels_runs_once(onnx_file, monkeypatch):
    model = detector(model=onnx_file(raw((9, 9, 6, 6, 0.9, 0), (9, 9, 6, 6, 0, 0.8)), named(2)))
    (loaded,) = model._loaded.values()
    calls = []
    monkeypatch.setattr(loaded, "predict", lambda views, p=loaded.predict: calls.append(len(views)) or p(views))
    views = [whole(noise(64, 64))]
    assert [model.detect(views, level)[0][0].level for level in ("meso", "micro")] == ["meso", "micro"]
    model.detect([whole(noise(64, 64))], "micro")
    assert calls == [1, 1]


def test_onnx_names_what_is_wrong(onnx_file, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    nameless = onnx_file(raw((9, 9, 6, 6, 0.9)), {})
    coco = onnx_file(raw((9, 9, 6, 6, 0.9, 0)), {"names": "{0: 'person', 1: 'bicycle'}"})
    tensorrt = helper.make_node("EfficientNMS_TRT", ["images"], ["output0"], domain="TRT")
    for options, words in (
        ({}, "no model for meso, micro: give model=FILE.onnx"),
        ({"model": tmp_path / "none.onnx"}, "no such file"),
        ({"model": tmp_path / "broken.onnx"}, "cannot load"),
        ({"model": onnx_file(([tensorrt], []), named(2))}, "cannot load .*: it is made for TensorRT alone"),
        ({"model": nameless}, "does not name its classes"),
        ({"model": coco}, "knows none of face, head, hand, foot, eye for level micro: give labels.micro=CLASS"),
        ({"model": coco, "labels": "persom"}, "persom: no class of the model; its classes: person, bicycle"),
        ({"model__meso": coco}, "no model for micro"),
        ({"model": coco, "modle": 1, "threshold": 7}, "threshold = 7: .*modle is unknown: did you mean model"),
    ):
        with pytest.raises(SgaError, match=words) as error:
            detector(**options)
        assert "\n" not in str(error.value)


def test_onnx_providers():
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert choose_providers("", both) == [("CUDAExecutionProvider", {"device_id": 0}), "CPUExecutionProvider"]
    assert choose_providers("cuda:1", both)[0] == ("CUDAExecutionProvider", {"device_id": 1})
    assert choose_providers("cpu", both) == choose_providers("", both[1:]) == ["CPUExecutionProvider"]
    for device, words in (("cuda", "no CUDA"), ("gpu", "runs on cpu")):
        with pytest.raises(SgaError, match=words):
            choose_providers(device, both[1:])


# --- ultralytics' own exports -------------------------------------------------------------------------------------

HEADS = {
    "detect": "Detect, [nc]",
    "segment": "Segment, [nc, 8, 16]",
    "pose": "Pose, [nc, [5, 3]]",
    "v10": "v10Detect, [nc]",
    "rtdetr": "RTDETRDecoder, [nc, 32, 40, 4, 2, 1]",
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Callable[[str], Path]:
    """A tiny model with that head and random weights, whose scores differ, instead of 1e-4 everywhere."""
    folder = tmp_path_factory.mktemp("weights")
    ultralytics = pytest.importorskip("ultralytics")

    def make(head: str) -> Path:
        path = folder / f"tiny-{head}.pt"
        if not path.exists():
            widths = (8, 16, 16, 16, 16)
            layers = "".join(f"  - [-1, 1, Conv, [{width}, 3, 2]]\n" for width in widths)
            text = f"nc: 3\nkpt_shape: [5, 3]\nbackbone:\n{layers}head:\n  - [[2, 3, 4], 1, {HEADS[head]}]\n"
            (folder / f"tiny-{head}.yaml").write_text(text)
            torch.manual_seed(0)
            kind = ultralytics.RTDETR if head == "rtdetr" else ultralytics.YOLO
            model = kind(folder / f"tiny-{head}.yaml")
            model.model.names = {0: "face", 1: "person", 2: "car"}
            for name, module in model.model.model[-1].named_modules():
                loud = {"detect": "cv3", "rtdetr": "score_head"}.get(head, "cv3")
                if loud in name and getattr(module, "out_features", getattr(module, "out_channels", 0)) == 3:
                    torch.nn.init.normal_(module.weight, std=2 if head == "rtdetr" else 300)
                    torch.nn.init.zeros_(module.bias)
            model.save(path)
        return path

    return make


def found_by_ultralytics(file: Path, rtdetr: bool, pixels: np.ndarray) -> list[tuple[str, float, Box]]:
    import ultralytics

    model = (ultralytics.RTDETR if rtdetr else ultralytics.YOLO)(file)
    bgr = pixels[..., ::-1].copy()
    result = model.predict(bgr, imgsz=96, conf=0.5, iou=0.7, rect=False, device="cpu", verbose=False)[0].boxes
    return [
        (model.names[int(number)], score, Box(*map(round, corners)))
        for corners, score, number in zip(result.xyxy.tolist(), result.conf.tolist(), result.cls.tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("detect", {}),
        ("detect", {"dynamic": True}),
        ("detect", {"nms": True}),
        ("segment", {}),
        ("segment", {"nms": True}),
        ("pose", {}),
        ("pose", {"nms": True}),
        ("v10", {}),
        ("v10", {"nms": False}),  # so it is told to choose boxes by itself
        ("rtdetr", {}),
    ],
)
def test_an_export_finds_the_very_boxes_that_ultralytics_finds(head, options, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_AUTOINSTALL", "false")
    import ultralytics

    copy, rtdetr = tmp_path / "tiny.pt", head == "rtdetr"
    copy.write_bytes(weights(head).read_bytes())
    kind = ultralytics.RTDETR if rtdetr else ultralytics.YOLO
    exported = kind(copy).export(format="onnx", imgsz=96, simplify=False, conf=0.3, iou=0.7, **options)
    # Boxes that the graph itself chooses are compared with ultralytics' reading of it, the others with the weights'.
    file = exported if "nms" in options else copy
    model = detector(model=exported, labels="*", threshold=0.5)
    for seed, size in enumerate(((96, 72), (200, 150), (61, 130), (300, 301))):
        pixels = noise(*size, seed)
        theirs, (ours,) = found_by_ultralytics(Path(file), rtdetr, pixels), model.detect([whole(pixels)], "micro")
        # It leaves out boxes whose mask is empty, as those of random weights are.
        assert len(theirs) > 3 and (len(ours) == len(theirs) or head == "segment")
        for label, score, box in theirs:
            assert any(
                d.label == label
                and abs(d.score - score) < 1e-3
                and np.abs(np.subtract(d.box.as_list(), box.as_list())).max() <= 1
                for d in ours
            ), (label, score, box)


@pytest.mark.parametrize("options", [{}, {"nms": True}])
def test_masks_of_an_export_and_of_its_weights_are_those_that_ultralytics_draws(
    options, weights, tmp_path, monkeypatch
):
    monkeypatch.setenv("YOLO_AUTOINSTALL", "false")
    import ultralytics

    copy = tmp_path / "tiny.pt"
    copy.write_bytes(weights("segment").read_bytes())
    exported = ultralytics.YOLO(copy).export(format="onnx", imgsz=96, simplify=False, conf=0.3, iou=0.7, **options)
    onnx_model = detector(model=exported, labels="*", threshold=0.5, masks="detector")
    yolo_model = detector("yolo", model=str(copy), labels="*", threshold=0.5, imgsz=96, masks="detector")
    assert all(
        found.mask is None for found in detector(model=exported, labels="*").detect([whole(noise(9, 9))], "micro")[0]
    )
    compared = 0
    for seed, size in enumerate(((96, 72), (200, 150), (61, 130))):
        pixels = noise(*size, seed)
        predict = ultralytics.YOLO(exported if options else copy).predict
        told = {"imgsz": 96, "conf": 0.5, "iou": 0.7, "rect": False, "device": "cpu", "verbose": False}
        (result,) = predict(pixels[..., ::-1].copy(), retina_masks=True, **told)
        for model, least in ((onnx_model, 0.97), (yolo_model, 0.85)):  # the outlines of the second are in whole pixels
            for found in model.detect([whole(pixels)], "micro")[0]:
                boxes = result.boxes
                near = np.abs(boxes.xyxy.numpy() - found.box.as_list()).max(1) <= 1
                same = np.flatnonzero(near & (np.abs(boxes.conf.numpy() - found.score) < 1e-3))
                if len(same) != 1:
                    continue
                box, mask = found.box, result.masks.data[int(same[0])].numpy() > 0
                theirs, ours = mask[box.y0 : box.y1, box.x0 : box.x1], found.mask > 0
                assert ours.shape == theirs.shape and set(np.unique(found.mask)) <= {0, 255}
                if 20 < theirs.sum() < theirs.size - 20:
                    compared += 1
                    agreed = (ours == theirs).mean()
                    assert agreed > least, (model, agreed, size, box)
    assert compared > 10
