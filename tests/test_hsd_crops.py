"""sga_kohya.hsd: crops as a person would take them: their scale, room, place in each other and content."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.hsd import CROP_FILTERS, Box, Detection, HsdConfig, LevelConfig, View, register_detector, run
from sga_kohya.hsd.cut import decompose as decompose_module
from sga_kohya.hsd.cut.decompose import Crop, decompose
from sga_kohya.hsd.cut.geometry import intersection
from sga_kohya.hsd.cut.quality import detail
from sga_kohya.hsd.cut.strips import strips
from sga_kohya.hsd.detect import DETECTORS
from sga_kohya.hsd.detectors.options import of_each
from sga_kohya.hsd.kits import make_detector, settings_digest
from sga_kohya.hsd.out.summary import squares, summarise
from sga_kohya.hsd.settings.config_file import load_config
from tests.test_hsd_decompose import Fixed, kept, levels_kept, noise, one_region
from tests.test_hsd_run import rows_of

MACRO, MESO, MICRO = LevelConfig("macro", 512, tau_up=1.0), LevelConfig("meso", 512), LevelConfig("micro", 512)
OWN = replace(MICRO, tau_up=1.25, own_scale=True)


# --- scale --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "size", "scale"),
    [
        (480, 448, 448 / 480),  # not 512, for which it would have to be enlarged
        (200, 256, 1.0),  # with a little of what is around it
        (140, 256, 256 / 210),  # with all the surroundings that it may take in, and enlarged by the rest
    ],
)
def test_a_level_of_its_own_scale_is_not_enlarged_where_it_need_not_be(side, size, scale):
    detector = Fixed(micro=[(Box(300, 300, 300 + side, 300 + side), 0.8)])
    micro = one_region(noise(1024, 1024), detector, HsdConfig((MACRO, OWN))).crops[1]
    assert (micro.size, micro.scale) == ((size, size), pytest.approx(scale, abs=0.01))
    assert Box(300, 300, 300 + side, 300 + side).inside(micro.box)


def test_with_an_upscale_model_the_finest_level_fills_its_resolution(tmp_path):
    (tmp_path / "model.pth").write_bytes(b"")
    detector = Fixed(micro=[(Box(300, 300, 780, 780), 0.8)])
    config = HsdConfig((MACRO, OWN), upscale_model=tmp_path / "model.pth")
    assert one_region(noise(1024, 1024), detector, config).crops[1].size == (512, 512)


def test_the_finest_level_is_at_its_own_scale_unless_somebody_says_otherwise(tmp_path):
    levels = load_config("sdxl-1024").levels
    assert [(level.tau_up, level.own_scale) for level in levels] == [(1.0, False), (2.0, False), (1.25, True)]
    (tmp_path / "c.toml").write_text("[level.micro]\nown_scale = false\ntau_up = 2.0\n")
    assert not load_config("sdxl-1024", tmp_path / "c.toml").levels[2].own_scale
    scenes = load_config(command_line={"levels": ["scene", "part", "detail"]}).levels
    assert [level.own_scale for level in scenes] == [False, False, True], "by its place, where the name says nothing"
    assert HsdConfig().levels == load_config().levels


def test_what_is_too_small_gives_its_place_to_the_next_best():
    tiny, large, spare = (Box(0, 0, 60, 60), 0.9), (Box(400, 400, 800, 800), 0.5), (Box(0, 500, 300, 800), 0.4)
    region = one_region(noise(1024, 1024), Fixed(meso=[tiny, large, spare]), HsdConfig((MACRO, MESO)))
    assert [crop.box for crop in kept(region)[1:]] == [large[0]]
    assert [crop.reason for crop in region.crops if not crop.kept] == [
        "surplus: 2 more than max_slices 1, this the best"
    ]
    alone = one_region(noise(1024, 1024), Fixed(meso=[tiny]), HsdConfig((MACRO, MESO)))
    assert [crop.reason.split(":")[0] for crop in alone.crops if not crop.kept] == ["too small"]


def test_half_the_resolution_is_the_smallest_side_where_nobody_says_one():
    config = load_config(command_line={"resolution": 256})
    assert config.min_size == 128 and any(w != h for w, h in config.coarsest.targets(config.min_size))
    assert load_config(command_line={"resolution": 512}).min_size == 256 == load_config().min_size
    assert load_config(command_line={"resolution": 256, "min_size": 192}).min_size == 192


# --- room, and boxes in boxes -------------------------------------------------------------------------------------


def test_a_margin_is_put_around_a_box_and_never_beyond_the_photo():
    levels = (MACRO, replace(MESO, margin=0.25))
    inside, corner = (Box(400, 400, 600, 600), 1.0), (Box(0, 0, 300, 300), 1.0)
    assert one_region(noise(1024, 1024), Fixed(meso=[inside]), HsdConfig(levels)).crops[1].box == Box(
        350, 350, 650, 650
    )
    assert one_region(noise(1024, 1024), Fixed(meso=[corner]), HsdConfig(levels)).crops[1].box == Box(0, 0, 375, 375)
    split = HsdConfig((replace(MACRO, margin=0.1), MESO), mode="split")
    ((region,),) = decompose([("a.png", noise(700, 900))], Fixed(macro=[(Box(0, 100, 600, 700), 1.0)]), split)
    assert region.crops[0].box == Box(0, 50, 700, 750), "a square around 0, 40, 660, 760"


@pytest.mark.parametrize("margin", [-0.1, 3.0, float("nan")])
def test_a_margin_that_makes_no_sense_is_refused(margin):
    with pytest.raises(SgaError, match="margin .* of level meso: use a share of the box's sides from 0 to 2"):
        HsdConfig((MACRO, replace(MESO, margin=margin)))


def test_a_body_takes_in_the_head_that_its_box_cuts():
    body, head = Box(200, 400, 600, 900), Box(300, 250, 500, 550)
    region = one_region(
        noise(1024, 1024), Fixed(meso=[(body, 0.9)], micro=[(head, 0.9)]), HsdConfig((MACRO, MESO, MICRO))
    )
    _, meso, micro = kept(region)
    assert body.inside(meso.box) and head.inside(meso.box) and micro.box.inside(meso.box)


def test_a_slice_of_another_subject_stays_where_it_is():
    body, cup = Box(100, 100, 500, 500), Box(450, 450, 750, 750)
    region = one_region(
        noise(1024, 1024), Fixed(meso=[(body, 0.9)], micro=[(cup, 0.9)]), HsdConfig((MACRO, MESO, MICRO))
    )
    assert [crop.box for crop in kept(region)[1:]] == [body, cup]


# --- long photos --------------------------------------------------------------------------------------------------


def test_a_long_photo_is_used_whole_in_regions_end_to_end():
    (regions,) = decompose([("panorama.png", noise(3000, 400))], Fixed(), HsdConfig((MACRO, MESO)))
    boxes = [region.crops[0].box for region in regions]
    assert len(boxes) == 5 and all(crop.kept for region in regions for crop in region.crops)
    assert boxes[0].x0 < 60 and boxes[-1].x1 > 2940, boxes
    (short,) = decompose(
        [("wide.png", noise(1024, 576))], Fixed(), HsdConfig((replace(MACRO, sizes=((512, 512),)), MESO))
    )
    assert len(short) == 1, "a usual photo is one region, whatever sizes there are"


def test_a_webtoon_is_cut_in_its_gutters():
    page = np.full((6000, 400, 3), 255, np.uint8)
    for top in range(100, 6000, 1000):
        page[top : top + 800] = noise(400, 800)
    blank = (page == 255).all((1, 2))
    boxes = strips(page, MACRO.targets(256))
    assert (boxes[0].y0, boxes[-1].y1) == (0, 6000)
    assert all(a.y1 == b.y0 for a, b in zip(boxes, boxes[1:], strict=False)) and len(boxes) == 10
    near = [blank[600 * number - 130 : 600 * number + 130].any() for number in range(1, 10)]
    assert sum(near) > 4 and [bool(blank[box.y0]) for box in boxes[1:]] == [bool(reached) for reached in near]
    across = strips(page.transpose(1, 0, 2).copy(), MACRO.targets(256))
    assert [(box.x0, box.x1) for box in across] == [(box.y0, box.y1) for box in boxes]


# --- what a slice shows -------------------------------------------------------------------------------------------


def textured(width: int, height: int) -> np.ndarray:
    return cv2.resize(noise(width // 4, height // 4), (width, height), interpolation=cv2.INTER_CUBIC)


def test_detail_is_in_texture_and_not_in_blur_gradients_or_grain():
    sharp = textured(400, 400)
    blurred = cv2.GaussianBlur(sharp, (0, 0), 12)
    sky = np.broadcast_to(np.linspace(80, 220, 400)[:, None, None], (400, 400, 3)).astype(np.uint8)
    grain = np.clip(sky + np.random.default_rng(0).normal(0, 4, sky.shape), 0, 255).astype(np.uint8)
    assert detail(sharp, 1.0) > 15 > 3 > max(detail(blurred, 1.0), detail(sky, 1.0), detail(grain, 1.0))
    assert detail(blurred, 0.08) > detail(blurred, 1.0), "seen from afar it is sharp again"
    assert detail(sharp[:30, :300], 0.9) > 3, "also of a crop that is smaller than a patch"


def test_a_flat_crop_is_left_out_with_its_reason_and_the_next_best_taken():
    image = textured(1024, 1024)
    image[:400, :400] = 200
    flat, rich = (Box(20, 20, 380, 380), 0.9), (Box(500, 500, 900, 900), 0.4)
    config = HsdConfig((MACRO, replace(MESO, min_detail=2.0)))
    assert [crop.box for crop in kept(one_region(image, Fixed(meso=[flat, rich]), config))[1:]] == [rich[0]]
    only = one_region(image, Fixed(meso=[flat]), config).crops[1]
    assert only.reason.startswith("no detail: 0.0 grey levels where it is richest, below min_detail 2")
    unasked = HsdConfig((MACRO, MESO))
    assert levels_kept(one_region(image, Fixed(meso=[flat]), unasked)) == ["macro", "meso"]


def test_a_crop_filter_of_one_s_own_is_one_function_and_one_entry(monkeypatch):
    def red(pixels: np.ndarray, crop: Crop, level: LevelConfig) -> str | None:
        return f"red: {level.name}" if pixels[..., 0].mean() > 250 else None

    image = textured(1024, 1024)
    image[:400, :400] = (255, 0, 0)
    config = HsdConfig((MACRO, MESO))
    before = one_region(image, Fixed(meso=[(Box(0, 0, 400, 400), 0.9)]), config)
    monkeypatch.setattr(decompose_module, "CROP_FILTERS", [*CROP_FILTERS, red])
    after = one_region(image, Fixed(meso=[(Box(0, 0, 400, 400), 0.9)]), config)
    assert levels_kept(before) == ["macro", "meso"] and after.crops[1].reason == "red: meso"


# --- several detectors --------------------------------------------------------------------------------------------


class Some:
    """Finds one box in the photos that it knows, for the levels that it knows."""

    def __init__(self, name: str, x: int, known: Sequence[str], levels: Sequence[str] = ("meso", "micro")) -> None:
        self.name, self.x, self.known, self.levels = name, x, known, levels
        self.asked: list[tuple[str, str]] = []
        self.unanswered: set[str] = set()

    def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
        self.asked += [(level, view.source) for view in views]
        box = Box(self.x, 0, self.x + 300, 300)
        return [[Detection(box, 0.5, level)] if v.source in self.known and level in self.levels else [] for v in views]


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setattr("sga_kohya.hsd.detect.DETECTORS", DETECTORS)
    first, second = Some("first", 0, ["a.png"]), Some("second", 600, ["a.png", "b.png"])
    for detector in (first, second):
        monkeypatch.delitem(DETECTORS, detector.name, raising=False)
        register_detector(detector.name, lambda options, photos, detector=detector: options.finish() or detector)
    yield first, second
    for detector in (first, second):
        DETECTORS.pop(detector.name, None)


def test_of_several_detectors_the_next_is_asked_only_where_one_finds_nothing(two):
    first, second = two
    config = HsdConfig((MACRO, MESO), detector="first, second")
    photos = [("a.png", noise(1000, 800)), ("b.png", noise(1000, 800)), ("c.png", noise(1000, 800))]
    detector = make_detector(config, Path())
    found = decompose(photos, detector, config)
    assert [[(c.box.x0, c.detector) for c in kept(region)[1:]] for (region,) in found] == [
        *([(0, "first")], [(600, "second")], [])
    ]
    assert detector.name == "first,second"
    assert [source for _, source in second.asked] == ["b.png", "c.png"]
    first.unanswered.add("b.png")
    assert detector.unanswered == {"b.png"}


def test_a_level_may_have_detectors_of_its_own(two):
    first, second = two
    config = HsdConfig((MACRO, MESO, replace(MICRO, detector="second")), detector="first")
    (region,) = decompose([("a.png", noise(1000, 800))], make_detector(config, Path()), config)[0]
    assert [(crop.level, crop.detector) for crop in kept(region)[1:]] == [("meso", "first"), ("micro", "second")]
    assert {level for level, _ in first.asked} == {"meso"} and {level for level, _ in second.asked} == {"micro"}
    with pytest.raises(SgaError, match="detector 'third': known are .*first.*; or package.module:function for"):
        HsdConfig((MACRO, replace(MESO, detector="third,first")))


def test_options_of_several_detectors_stand_behind_their_names(two):
    given = {"model": "m.pt", "vlm.endpoint": "http://x", "vlm.labels.micro": "eye", "heuristic": {"a": 1}}
    assert of_each(["yolo", "vlm", "heuristic"], given) == {
        "yolo": {"model": "m.pt"},
        "vlm": {"endpoint": "http://x", "labels.micro": "eye"},
        "heuristic": {"a": 1},
    }
    with pytest.raises(SgaError, match="detector heuristic: colour is unknown"):
        make_detector(HsdConfig(detector="first,heuristic", detector_options={"heuristic.colour": "red"}), Path())
    with pytest.raises(SgaError, match="detector first: colour is unknown"):
        make_detector(HsdConfig(detector="first,heuristic", detector_options={"colour": "red"}), Path())


def test_paths_among_the_options_of_several_detectors_are_relative_to_their_file(tmp_path):
    (tmp_path / "notes").mkdir()
    text = '[detector]\nname = "boxes,heuristic"\n{}\n'
    for line in ('annotations = "notes"', '"boxes.annotations" = "notes"', '[detector.boxes]\nannotations = "notes"'):
        (tmp_path / "c.toml").write_text(text.format(line))
        options = load_config(file=tmp_path / "c.toml").detector_options
        assert of_each(["boxes", "heuristic"], options)["boxes"] == {"annotations": str(tmp_path / "notes")}, line


def test_how_one_of_several_detectors_is_asked_changes_no_slice():
    def digest(**options: object) -> str:
        return settings_digest(HsdConfig(detector="vlm,heuristic", detector_options=options))

    assert digest(**{"vlm.cache": "a", "vlm": {"parallel": 2}}) == digest(**{"vlm.cache": "b", "vlm": {"parallel": 4}})
    assert digest(**{"vlm.model": "a"}) != digest(**{"vlm.model": "b"})


# --- what is said -------------------------------------------------------------------------------------------------


def test_the_summary_says_what_is_missing_and_what_is_enlarged(two, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(np.random.default_rng(ord(name[0])).integers(0, 256, (500, 700, 3), np.uint8)).save(
            photos / name
        )
    micro = replace(OWN, resolution=448, sizes=((320, 320), (384, 384)))
    config = HsdConfig((MACRO, micro), detector="first", near_duplicates=-1)
    two[0].levels, two[0].known = ["micro"], ["a.png"]
    result = run(photos, tmp_path / "out", config)
    text = summarise(result, config)
    assert (
        "in 2 of 3 regions first found nothing for micro, so they have no such slice: --detector first,heuristic"
        in text
    )
    assert "1 of 1 micro slices are enlarged by a median of 1.07x, which adds no detail: --tau_up 1, larger" in text
    assert [row["detector"] for row in rows_of(tmp_path / "out") if row["granularity"] == "micro"] == ["first"]
    assert "1.07×" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_squares_are_said():
    (said,) = squares(HsdConfig((replace(MACRO, resolution=256), replace(MESO, resolution=256))))
    assert said.startswith("every slice of macro, meso is cut to a square") and "--min_size" in said
    assert not list(squares(HsdConfig()))


# --- the model-free detector --------------------------------------------------------------------------------------


def view(pixels: np.ndarray) -> View:
    size = (pixels.shape[1], pixels.shape[0])
    return View(pixels, "a.png", Box.whole(size), size)


def test_windows_leave_room_for_what_is_sought_inside_them():
    image = textured(440, 400)
    detector = make_detector(HsdConfig(detector_options={"threshold": 0}), Path())
    meso, micro = (detector.detect([view(image)], level)[0][0].box for level in ("meso", "micro"))
    assert min(micro.size) >= 250, "the smallest slice that needs no enlargement has 256 pixels"
    assert min(meso.size) >= 310 and micro.inside(meso)


def test_a_photo_of_people_is_cut_without_cutting_a_face():
    data = pytest.importorskip("skimage.data")
    photo, face = data.astronaut(), Box(180, 75, 268, 175)
    config = load_config("sdxl-1024")
    (region,) = decompose([("a.png", photo)], make_detector(config, Path()), config)[0]
    assert levels_kept(region) == ["macro", "meso", "micro"]
    assert all(face.inside(crop.box) for crop in kept(region))


class Heads:
    """Stands for the cascades: the heads that one says."""

    def __init__(self, sure: Sequence[Box] = (), likely: Sequence[Box] = ()) -> None:
        self.sure, self.likely = sure, likely

    def heads(self, picture: np.ndarray, pixels: np.ndarray) -> "Heads":
        return self


def of_heads(monkeypatch, sure: Sequence[Box] = (), likely: Sequence[Box] = (), **options: object):
    detector = make_detector(HsdConfig(detector_options=options), Path())
    monkeypatch.setattr(detector, "_faces", Heads(sure, likely))
    return detector


def test_what_may_be_a_head_is_no_slice_and_is_not_cut(monkeypatch):
    image = textured(900, 700)
    image[:, :150] = image[:, 750:] = 128
    meso = of_heads(monkeypatch, threshold=0).detect([view(image)], "meso")[0][0].box
    likely = Box(meso.x1 - 70, meso.y0 + 100, meso.x1 + 70, meso.y0 + 260)
    detector = of_heads(monkeypatch, likely=[likely], threshold=0)
    found = {level: detector.detect([view(image)], level)[0] for level in ("meso", "micro")}
    for level in found:
        shown = intersection(found[level][0].box, likely) / likely.area
        assert shown < 0.05 or shown > 0.95, f"{level} shows {shown:.0%} of it"
    assert all(detection.score < 0.99 for detection in found["micro"])


def test_a_head_whose_slice_cuts_another_s_is_the_second_best(monkeypatch):
    large, behind, apart = Box(100, 200, 300, 400), Box(200, 120, 360, 290), Box(600, 200, 760, 380)
    found = of_heads(monkeypatch, sure=[large, behind, apart]).detect([view(textured(900, 700))], "micro")[0]
    assert [detection.score for detection in found[:3]] == [0.99, 0.99, 1.0]
    assert apart.inside(found[2].box)


def test_a_threshold_leaves_a_photo_without_a_part_rather_than_with_a_poor_one(monkeypatch):
    photo = view(textured(900, 700))
    best = of_heads(monkeypatch, threshold={"micro": 0}).detect([photo], "micro")[0]
    some = of_heads(monkeypatch, threshold={"micro": best[0].score}).detect([photo], "micro")[0]
    assert [detection.score for detection in some] == [best[0].score]
    over = of_heads(monkeypatch, threshold={"micro": best[0].score + 0.01})
    assert not over.detect([photo], "micro")[0] and over.detect([photo], "meso")[0]
    head = Box(300, 200, 500, 430)
    (found,) = of_heads(monkeypatch, sure=[head], threshold=1).detect([photo], "micro")
    assert [detection.score for detection in found] == [1.0], "a head is no matter of it"


def test_the_finest_level_has_a_threshold_by_default_and_the_subject_none(monkeypatch):
    even = cv2.resize(noise(20, 16), (900, 700), interpolation=cv2.INTER_CUBIC)
    usual, asked = of_heads(monkeypatch), of_heads(monkeypatch, threshold=0)
    meso, micro = (usual.detect([view(even)], level)[0] for level in ("meso", "micro"))
    assert meso == asked.detect([view(even)], "meso")[0] and min(d.score for d in meso) < 0.65
    every = asked.detect([view(even)], "micro")[0]
    assert min(d.score for d in every) < 0.65 and micro == [d for d in every if d.score >= 0.65]
    with pytest.raises(SgaError, match="threshold.micro"):
        of_heads(monkeypatch, threshold={"micro": 2})


def test_the_summary_names_the_remedy_where_most_is_flat(tmp_path):
    (tmp_path / "photos").mkdir()
    smooth = cv2.GaussianBlur(textured(700, 500), (0, 0), 15)
    Image.fromarray(smooth).save(tmp_path / "photos" / "a.png")
    config = load_config(command_line={"resolution": 512})
    said = summarise(run(tmp_path / "photos", tmp_path / "out", config), config)
    assert "1 of 1 meso slices were dropped as flat or blurred, below min_detail 2. Use sharper photos" in said
    assert "less detail than 2 for meso, 3 for micro" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
