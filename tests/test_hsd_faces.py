"""The heuristic detector's faces: by a file of YuNet's form, read by the real cv2.FaceDetectorYN, or by cascades."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from sga_kohya.errors import SgaError
from sga_kohya.hsd import Box, HsdConfig, View
from sga_kohya.hsd.arguments import build_parser, config_from
from sga_kohya.hsd.detectors.heuristic import faces
from sga_kohya.hsd.detectors.heuristic.cascades import Cascades
from sga_kohya.hsd.detectors.heuristic.detector import MOST
from sga_kohya.hsd.detectors.heuristic.heads import Heads
from sga_kohya.hsd.detectors.heuristic.yunet import AROUND, LIKELY, SURE, YuNet
from sga_kohya.hsd.kits import make_detector, settings_digest
from sga_kohya.hsd.settings.config_file import load_config

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

STRIDES = (8, 16, 32)
CHANNELS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
FACE = 64
"""Sides of the faces that the tiny model finds, in pixels of what it is shown."""


def yunet_file(path: Path, outputs: str = "{}_{}") -> Path:
    """A model of YuNet's twelve outputs: a square face in the middle of each square of 32 that is red, as sure as red.

    outputs: how their names are made of a kind and a stride.
    """
    nodes, constants, shapes = [], [], []
    for stride in STRIDES:
        nodes.append(
            helper.make_node("AveragePool", ["input"], [f"p{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2)
        )
        for kind, channels in CHANNELS.items():
            name, weights, bias = outputs.format(kind, stride), np.zeros((channels, 3, 1, 1)), np.zeros(channels)
            if stride == 32 and kind in ("cls", "obj"):
                weights[:] = np.array([-1, -1, 1])[:, None, None] / 255  # of blue, green and red
            if kind == "bbox":
                bias[:] = 0.5, 0.5, np.log(FACE / stride), np.log(FACE / stride)
            constants += [
                numpy_helper.from_array(weights.astype(np.float32), f"w_{name}"),
                numpy_helper.from_array(bias.astype(np.float32), f"b_{name}"),
                numpy_helper.from_array(np.array([1, -1, channels]), f"s_{name}"),
            ]
            nodes += [
                helper.make_node("Conv", [f"p{stride}", f"w_{name}", f"b_{name}"], [f"c_{name}"], kernel_shape=[1, 1]),
                helper.make_node("Transpose", [f"c_{name}"], [f"t_{name}"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"t_{name}", f"s_{name}"], [name]),
            ]
            shapes.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, "anchors", channels)))
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, (1, 3, "height", "width"))
    graph = helper.make_graph(nodes, "tiny", [picture], shapes, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return yunet_file(tmp_path / "tiny.onnx")


def photo(*squares: tuple[int, int, float], side: int = 640) -> np.ndarray:
    """(side, side, 3) RGB, grey and a little noisy, with squares of 64 at (x, y), so red that they score so much."""
    pixels = np.random.default_rng(0).integers(100, 130, (side, side, 3), dtype=np.uint8)
    pixels[..., 1:] = pixels[..., :1]
    for x, y, score in squares:
        pixels[y : y + 64, x : x + 64] = (round(255 * score), 0, 0)
    return pixels


def view(pixels: np.ndarray) -> View:
    size = pixels.shape[1::-1]
    return View(pixels, "a.png", Box.whole(size), size)


def half(pixels: np.ndarray) -> np.ndarray:
    return cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def test_a_face_is_a_head_with_room_for_its_hair_and_one_that_is_less_sure_may_be_one(model):
    pixels = photo((64, 128, 0.95), (448, 320, 0.7), (320, 64, 0.5))
    found = YuNet(model).heads(half(pixels), pixels)
    left, above, right, below = (2 * FACE * share for share in AROUND)
    sure, maybe = (96, 160), (480, 352)  # the middles of the squares, whose faces have twice FACE in the photo
    boxes = [
        Box(max(0, round(x - FACE - left)), round(y - FACE - above), round(x + FACE + right), round(y + FACE + below))
        for x, y in (sure, maybe)
    ]
    assert LIKELY < 0.7 < SURE < 0.95
    assert found == Heads([boxes[0]], [boxes[1]])


def test_photos_of_any_shape_follow_each_other(model):
    finder, first = YuNet(model), photo((64, 128, 0.95))
    before = finder.heads(half(first), first)
    for shape in ((320, 640), (642, 330), (90, 640)):
        other = first[: shape[0], : shape[1]]
        assert len(finder.heads(half(other), other).sure) == (other.shape[0] > 192)
    assert finder.heads(half(first), first) == before


def test_a_face_in_the_background_is_none(model, monkeypatch):
    pixels = photo((64, 128, 0.95))
    monkeypatch.setattr("sga_kohya.hsd.detectors.heuristic.yunet.SMALLEST", FACE + 1)
    assert YuNet(model).heads(half(pixels), pixels) == Heads([], [])


def test_with_a_file_it_is_used_and_not_the_cascades_and_its_faces_become_slices(model, monkeypatch):
    monkeypatch.setattr(Cascades, "heads", lambda *_: pytest.fail("the cascades were asked"))
    detector = make_detector(HsdConfig(detector_options={"face_model": str(model)}), Path())
    best = detector.detect([view(photo((64, 128, 0.95)))], "micro")[0][0]
    assert Box(32, 96, 160, 224).inside(best.box) and best.score == 1


def test_a_head_that_fills_the_view_says_nothing_of_where_to_cut(monkeypatch):
    def windows(*heads: Box) -> list[Box]:
        detector = make_detector(HsdConfig(detector_options={"threshold": 0}), Path())
        found = Heads(list(heads))
        monkeypatch.setattr(detector, "_faces", type("Finder", (), {"heads": lambda *_: found})())
        return [detection.box for detection in detector.detect([view(photo((64, 128, 0.3)))], "micro")[0]]

    fills = Box(0, 0, 640, round(640 * MOST) + 2)
    assert windows(fills) == windows() and fills not in windows(fills)
    assert windows(Box(0, 0, 640, round(640 * MOST) - 2)) != windows()


@pytest.mark.parametrize(
    ("name", "write", "told"),
    [
        ("away.onnx", lambda path: None, "face_model = '.*away.onnx': no such file"),
        ("net.caffemodel", lambda path: path.write_bytes(b"x"), "face_model = .*: give a .onnx file"),
        ("empty.onnx", lambda path: path.write_bytes(b""), "empty.onnx is not YuNet's .*: give face_detection_yunet_"),
        ("page.onnx", lambda path: path.write_text("<!DOCTYPE html>"), "page.onnx is not YuNet's"),
        ("other.onnx", lambda path: yunet_file(path, "{}-of-another-{}"), "other.onnx is not YuNet's"),
    ],
)
def test_what_is_no_such_model_is_refused_before_any_photo(tmp_path, name, write, told):
    write(tmp_path / name)
    with pytest.raises(SgaError, match=told):
        make_detector(HsdConfig(detector_options={"face_model": str(tmp_path / name)}), Path())


def test_an_opencv_that_cannot_read_it_says_so(model, monkeypatch):
    monkeypatch.delattr(cv2, "FaceDetectorYN")
    with pytest.raises(SgaError, match="OpenCV .* has no FaceDetectorYN: pip install -U opencv-python, or leave"):
        make_detector(HsdConfig(detector_options={"face_model": str(model)}), Path())


def test_another_file_of_the_same_name_is_another_setting(model, tmp_path):
    (tmp_path / "c.toml").write_text('[detector]\nname = "heuristic"\nface_model = "tiny.onnx"\n')
    config = load_config("", tmp_path / "c.toml")
    assert config.detector_options == {"face_model": str(model)}, "relative to the file that names it"
    before = settings_digest(config)
    assert settings_digest(config) == before != settings_digest(HsdConfig())
    os.utime(model, (1, 1))
    assert settings_digest(config) != before


def test_the_command_line_takes_it(model):
    words = ["photos", "out", "--detector_arg", f"face_model={model}"]
    assert config_from(build_parser().parse_args(words)).detector_options == {"face_model": str(model)}


def test_without_cascades_it_goes_by_what_stands_out_and_says_what_to_give_it(monkeypatch, capsys):
    data = pytest.importorskip("skimage.data")
    monkeypatch.setattr(Cascades, "available", staticmethod(lambda: False))
    found = make_detector(HsdConfig(), Path()).detect([view(data.astronaut())], "micro")[0]
    assert found and 0.65 <= found[0].score < 0.99
    told = capsys.readouterr().err
    assert "faces are not looked for, as OpenCV" in told and "face_model=face_detection_yunet_2026may.onnx" in told


def test_what_has_no_eyes_is_no_face():
    data = pytest.importorskip("skimage.data")
    if not Cascades.available():
        pytest.skip("this OpenCV has no cascades")
    whole = data.astronaut()
    finder = faces.face_finder(None)
    assert finder is not None
    (head,) = finder.heads(whole, whole).sure
    assert Box(180, 75, 268, 175).inside(head)
    eyeless, upper = whole.copy(), slice(head.y0, (head.y0 + head.y1) // 2)
    eyeless[upper] = cv2.GaussianBlur(whole, (0, 0), 12)[upper]
    found = finder.heads(whole, eyeless)
    assert found.sure == [] and head in found.likely, "it is at least not cut"
