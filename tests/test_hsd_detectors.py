"""The detectors of sga_kohya.hsd on tiny models made on the spot, loaded by the libraries' own loaders, offline."""

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.hsd import Box, HsdConfig, LevelConfig, View
from sga_kohya.hsd.detect import DETECTORS, Detector
from sga_kohya.hsd.detectors.letterbox import Letterbox, to_detection
from sga_kohya.hsd.kits import make_detector, settings_digest

SIZES = ((640, 480), (300, 500), (111, 77), (1000, 90))


def detector(name: str, mode: str = "whole", **options: object) -> Detector:
    named = {key.replace("__", "."): value for key, value in options.items()}
    return make_detector(HsdConfig(detector=name, detector_options=named, mode=mode, device="cpu"), Path("photos"))


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


def assert_independent_of_the_batch(found_by: Callable[[Sequence[View]], list], views: Sequence[View]) -> None:
    together = found_by(views)
    assert any(together)
    assert [found_by([view])[0] for view in views] == together == found_by(views[::-1])[::-1]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [(640, 640), (64, 64), (320, 192)])
def test_a_letterbox_there_and_back_is_where_it_was(size, target):
    letterbox = Letterbox(size, target)
    picture = letterbox.apply(np.zeros((size[1], size[0], 3), np.uint8))
    ys, xs = np.nonzero(picture[..., 0] == 0)
    corners = np.array([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]])
    assert picture.shape == (target[1], target[0], 3)
    assert np.allclose(letterbox.undo(corners), [[0, 0, *size]], atol=1e-9)


def test_corners_become_whole_pixels_inside_the_view():
    def box(*corners: float) -> list[int] | None:
        found = to_detection(corners, 0.123456, "micro", "face", (100, 50))
        return found.box.as_list() if found else None

    assert box(1.2, 2.9, 3.1, 4.0) == [1, 2, 4, 4]
    assert box(9.9999, 10.0001, 20.0001, 19.9999) == [10, 10, 20, 20]
    assert box(-5, -5, 200, 200) == [0, 0, 100, 50]
    assert box(100, 0, 120, 20) is None and box(5, 5, 4, 9) is None and box(0, 0, np.nan, 9) is None


# --- YOLO ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def yolo_file(tmp_path_factory):
    ultralytics = pytest.importorskip("ultralytics")
    folder = tmp_path_factory.mktemp("yolo")
    layers = [
        "[-1, 1, Conv, [8, 3, 2]]",
        "[-1, 1, Conv, [16, 3, 2]]",
        "[-1, 1, Conv, [16, 3, 2]]",
        "[-1, 1, Conv, [16, 3, 2]]",
        "[-1, 1, Conv, [16, 3, 2]]",
    ]
    text = "nc: 3\nbackbone:\n" + "".join(f"  - {layer}\n" for layer in layers)
    (folder / "tiny.yaml").write_text(text + "head:\n  - [[2, 3, 4], 1, Detect, [nc]]\n")
    torch.manual_seed(0)
    model = ultralytics.YOLO(folder / "tiny.yaml", verbose=False)
    model.model.names = {0: "face", 1: "person", 2: "car"}
    for branch in model.model.model[-1].cv3:  # scores that differ, instead of 1e-4 everywhere
        torch.nn.init.normal_(branch[-1].weight, std=300)
        torch.nn.init.zeros_(branch[-1].bias)
    model.save(folder / "tiny.pt")
    return folder / "tiny.pt"


def test_yolo_finds_what_ultralytics_finds_in_the_file(yolo_file, tmp_path):
    from ultralytics import YOLO

    pixels = np.asarray(Image.fromarray(noise(16, 12)).resize((200, 150)))
    Image.fromarray(pixels).save(tmp_path / "photo.png")  # from a file ultralytics minds the order of the colours
    result = YOLO(yolo_file).predict(tmp_path / "photo.png", imgsz=96, conf=0.5, rect=False, verbose=False)[0]
    expected = sorted(
        (round(float(score), 4), result.names[int(number)], [round(float(edge)) for edge in corners])
        for corners, score, number in zip(result.boxes.xyxy, result.boxes.conf, result.boxes.cls, strict=True)
    )
    model = detector("yolo", model=yolo_file, imgsz=96, threshold=0.5, labels="*")
    (found,) = model.detect([whole(pixels)], "micro")
    assert len(found) > 3 and [d.score for d in found] == sorted((d.score for d in found), reverse=True)
    ours = sorted((d.score, d.label, d.box.as_list()) for d in found)
    assert [(score, label) for score, label, _ in ours] == [(score, label) for score, label, _ in expected]
    assert np.abs(np.subtract([b for *_, b in ours], [b for *_, b in expected])).max() <= 1


def test_yolo_levels_have_their_own_classes_and_thresholds(yolo_file):
    model = detector("yolo", model=yolo_file, imgsz=96, threshold__meso=0.5, threshold__micro=0.6)
    views = [whole(noise(200, 150, seed)) for seed in range(4)] + [whole(noise(90, 250))]
    meso, micro = (sum(model.detect(views, level), []) for level in ("meso", "micro"))
    assert {d.label for d in meso} == {"person"} and {d.label for d in micro} == {"face"}
    assert min(d.score for d in micro) >= 0.6 > min(d.score for d in meso) >= 0.5
    assert_independent_of_the_batch(lambda some: model.detect(some, "meso"), views)


def test_yolo_sends_nothing_and_installs_nothing(yolo_file):
    code = f"""
from pathlib import Path
from sga_kohya.hsd import HsdConfig
from sga_kohya.hsd.kits import make_detector
make_detector(HsdConfig(detector="yolo", detector_options={{"model": {str(yolo_file)!r}}}, device="cpu"), Path("."))
from ultralytics.utils import AUTOINSTALL, ONLINE
from ultralytics.utils.events import events
print([AUTOINSTALL, ONLINE, events.enabled])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.splitlines()[-1:] == ["[False, False, False]"], run.stderr


def test_yolo_names_a_file_that_is_none(tmp_path):
    pytest.importorskip("ultralytics")
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    with pytest.raises(SgaError, match="cannot load .*broken.pt"):
        detector("yolo", model=tmp_path / "broken.pt")


# --- transformers -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rtdetr_folder(tmp_path_factory):
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrImageProcessor, RTDetrResNetConfig

    torch.manual_seed(0)
    backbone = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic", out_indices=[2, 3, 4]
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        encoder_hidden_dim=16,
        encoder_in_channels=[8, 16, 16],
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        num_queries=12,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_layers=1,
        decoder_attention_heads=2,
        anchor_image_size=None,
        id2label={0: "face", 1: "person"},
        label2id={"face": 0, "person": 1},
    )
    folder = tmp_path_factory.mktemp("rtdetr")
    model = RTDetrForObjectDetection(config).eval()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and ("class_embed" in name or "enc_score_head" in name):
            torch.nn.init.normal_(module.weight)  # scores that differ, instead of 0.01 everywhere
            torch.nn.init.zeros_(module.bias)
    model.save_pretrained(folder)
    RTDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def test_rtdetr_boxes_are_the_model_s_own_scaled_to_the_photo(rtdetr_folder):
    from transformers import AutoModelForObjectDetection

    pixels = noise(320, 130)
    small = np.array(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BILINEAR))
    with torch.inference_mode():
        picture = torch.from_numpy(small).permute(2, 0, 1)[None] / 255
        output = AutoModelForObjectDetection.from_pretrained(rtdetr_folder).eval()(pixel_values=picture)
    scores = output.logits[0].sigmoid()
    query, number = divmod(int(scores.argmax()), 2)
    x, y, w, h = (output.pred_boxes[0, query] * torch.tensor([320, 130, 320, 130])).tolist()
    (found,) = detector("rtdetr", model=rtdetr_folder, threshold=0.0, labels="*").detect([whole(pixels)], "micro")
    expected = np.clip([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 0, [320, 130, 320, 130])
    assert np.abs(np.subtract(found[0].box.as_list(), expected)).max() <= 1.01
    assert (
        found[0].score == pytest.approx(float(scores.max()), abs=2e-4) and found[0].label == ("face", "person")[number]
    )


def test_rtdetr_results_do_not_depend_on_the_batch(rtdetr_folder, monkeypatch):
    monkeypatch.setattr("sga_kohya.hsd.detectors.transformer.batch_size", lambda device: 4)
    model = detector("rtdetr", model=rtdetr_folder, threshold=0.0)
    views = [whole(noise(width, height)) for width, height in ((200, 100), (64, 64), (90, 300), (33, 40), (70, 70))]
    assert_independent_of_the_batch(lambda some: model.detect(some, "meso"), views)
    assert {d.label for d in model.detect(views, "meso")[0]} == {"person"}


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory):
    from transformers import (
        BertTokenizerFast,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
    )

    folder = tmp_path_factory.mktemp("dino")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "red", "hand", "face", "upper", "body", "torso"]
    words += ["head", "person", "animal", "whole", "object"]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    config = GroundingDinoConfig(
        backbone_config={
            "model_type": "swin",
            "image_size": 64,
            "embed_dim": 8,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 2, 2],
            "window_size": 2,
            "out_indices": [2, 3, 4],
        },
        text_config={
            "model_type": "bert",
            "vocab_size": len(words),
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
        },
        num_queries=10,
        d_model=32,
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_layers=2,
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        num_feature_levels=4,
    )
    model = GroundingDinoForObjectDetection(config).eval()
    model.save_pretrained(folder)
    tokenizer = BertTokenizerFast(vocab_file=str(folder / "vocab.txt"))
    processor = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    GroundingDinoProcessor(processor, tokenizer).save_pretrained(folder)
    return folder


def test_grounding_dino_takes_phrases_per_level(dino_folder):
    labels = {"labels.micro": ["red hand", "Face"], "labels.meso": "torso"}
    model = detector("grounding-dino", model=dino_folder, threshold=0.0, text_threshold=0.0, **labels)
    views = [whole(noise(200, 100)), whole(noise(100, 200, 1)), whole(noise(200, 100, 2))]
    micro, meso = model.detect(views, "micro"), model.detect(views, "meso")
    assert {d.label for found in micro for d in found} <= {"red hand", "Face"}
    assert {d.label for found in meso for d in found} == {"torso"}
    assert {(d.box, d.score) for d in micro[0]} != {(d.box, d.score) for d in meso[0]}, "the words matter"
    for found, view in zip(micro, views, strict=True):
        assert found and all(d.box.inside(Box.whole(view.size)) for d in found)
        assert [d.score for d in found] == sorted((d.score for d in found), reverse=True)


def test_grounding_dino_boxes_are_the_model_s_own_scaled_to_the_photo(dino_folder):
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    pixels = noise(200, 100)
    inputs = AutoProcessor.from_pretrained(dino_folder)(images=pixels, text="hand.", return_tensors="pt")
    with torch.inference_mode():
        output = AutoModelForZeroShotObjectDetection.from_pretrained(dino_folder).eval()(**inputs)
    best = int(output.logits[0].sigmoid().amax(-1).argmax())
    x, y, w, h = (output.pred_boxes[0, best] * torch.tensor([200, 100, 200, 100])).tolist()
    options = {"labels.micro": "hand", "model": dino_folder, "threshold": 0.0}
    (found,) = detector("grounding-dino", **options).detect([whole(pixels)], "micro")
    expected = np.clip([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 0, [200, 100, 200, 100])
    (same,) = (d for d in found if np.abs(np.subtract(d.box.as_list(), expected)).max() <= 1.01)
    assert same.score == pytest.approx(float(output.logits[0, best].sigmoid().max()), abs=2e-4)


def test_grounding_dino_results_do_not_depend_on_the_batch(dino_folder, monkeypatch):
    monkeypatch.setattr("sga_kohya.hsd.detectors.transformer.batch_size", lambda device: 4)
    model = detector("grounding-dino", model=dino_folder, threshold=0.0)
    views = [whole(noise(*size, seed)) for seed, size in enumerate(((200, 100), (100, 200), (200, 100), (80, 80)))]
    assert_independent_of_the_batch(lambda some: model.detect(some, "micro"), views)


@pytest.mark.parametrize("name", ["rtdetr", "grounding-dino"])
def test_a_model_that_is_not_there_is_named_in_one_line(name, tmp_path):
    with pytest.raises(SgaError, match=f"detector {name}: cannot load model .*nothing") as error:
        detector(name, model=tmp_path / "nothing")
    assert "\n" not in str(error.value)


# --- heuristic ----------------------------------------------------------------------------------------------------


def test_the_heuristic_prefers_windows_that_leave_the_head_on():
    assets = Path(pytest.importorskip("ultralytics").__file__).parent / "assets"
    pixels = np.asarray(Image.open(assets / "zidane.jpg").convert("RGB"))[:, 600:]  # a man who points, from his belt up
    face, model = Box(320, 70, 430, 190), detector("heuristic")
    for level in ("meso", "micro"):
        assert face.inside(model.detect([whole(pixels)], level)[0][0].box), level


# --- all ----------------------------------------------------------------------------------------------------------


def test_levels_of_one_s_own_names_take_the_defaults_of_their_rank(tmp_path):
    (tmp_path / "classes.txt").write_text("person\nface\n")
    (tmp_path / "a.txt").write_text("0 0.5 0.5 1 1\n1 0.5 0.5 0.5 0.5\n")
    Image.new("RGB", (20, 20)).save(tmp_path / "a.jpg")
    levels = tuple(map(LevelConfig, ("scene", "part", "detail")))
    config = HsdConfig(levels, detector="boxes", detector_options={"annotations": str(tmp_path)})
    model = make_detector(config, tmp_path)
    found = {level.name: model.detect([whole(noise(20, 20), "a.jpg")], level.name)[0][0].label for level in levels}
    assert found == {"scene": "person", "part": "person", "detail": "face"}


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_every_detector_refuses_an_option_that_it_does_not_have(name):
    with pytest.raises(SgaError, match=f"detector {name}: .*colour is unknown"):
        detector(name, colour="red")


# --- one's own function ----------------------------------------------------------------------------------------------

OWN = """
from sga_kohya.hsd import Box, Detection

def found(view, level):
    where = Box(0, 0, view.size[0] // 2, view.size[1] // 2)
    yield Detection(where, 0.2, level, "worse")
    yield Detection(where, 0.9, level, f"{level} of {view.source}")

def outside(view, level):
    return [Detection(Box(0, 0, view.size[0] + 1, 5), 0.5, level)]

def boxes(view, level):
    return [Box(0, 0, 5, 5)]

def broken(view, level):
    raise LookupError("no such level")
"""


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    (tmp_path / "my_detectors.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_detectors", raising=False)
    yield tmp_path / "my_detectors.py"
    sys.modules.pop("my_detectors", None)


def test_one_s_own_function_is_a_detector_and_may_stand_in_a_chain(mine):
    view = whole(noise(64, 48), "a/b.jpg")
    (found,) = detector("my_detectors:found").detect([view], "micro")
    assert [(each.label, each.score) for each in found] == [("micro of a/b.jpg", 0.9), ("worse", 0.2)], "best first"
    chain = detector("my_detectors:found,heuristic", **{"heuristic.threshold": 0})
    assert chain.detect([view], "meso")[0][0].found_by == "my_detectors:found"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("outside", r"my_detectors:outside fails at a/b.jpg: Detection.*: give Detections with boxes inside the view"),
        ("boxes", r"my_detectors:boxes fails at a/b.jpg: Box.*: give Detections"),
        ("broken", "my_detectors:broken fails at a/b.jpg: LookupError: no such level"),
    ],
)
def test_what_one_s_own_function_gives_is_looked_at(mine, name, told):
    with pytest.raises(SgaError, match=told):
        detector(f"my_detectors:{name}").detect([whole(noise(64, 48), "a/b.jpg")], "micro")


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("yollo", {}, "detector 'yollo': did you mean yolo?; or package.module:function for one of your own"),
        ("my_detectors:nothing", {}, "has no attribute 'nothing'; name a function as package.module:function"),
        ("my_detectors:OWN.x", {}, "detector my_detectors:OWN.x: AttributeError"),
        ("my_detectors:found", {"labels": "face"}, "detector my_detectors:found: labels is unknown"),
    ],
)
def test_a_detector_that_is_not_there_is_refused_with_what_was_meant(mine, name, options, told):
    with pytest.raises(SgaError, match=re.escape(told)):
        detector(name, **options)


def test_an_edited_function_is_another_setting(mine):
    config = HsdConfig(detector="my_detectors:found")
    before = settings_digest(config)
    assert settings_digest(config) == before
    mine.write_text(OWN + "\n")
    assert settings_digest(config) != before
    levels = tuple(replace(level, detector="my_detectors:found") for level in HsdConfig().levels)
    apart = settings_digest(HsdConfig(levels))
    mine.write_text(OWN)
    assert settings_digest(HsdConfig(levels)) != apart, "of a level's own, too"
