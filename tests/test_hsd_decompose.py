"""sga_kohya.hsd: Algorithm 1 on one photo, with detections that the test chooses, and the model-free detector."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sga_kohya.errors import SgaError
from sga_kohya.hsd import Box, Detection, HsdConfig, LevelConfig, Options, View, register_detector
from sga_kohya.hsd.cut.choosing import choose
from sga_kohya.hsd.cut.decompose import Crop, Region, decompose, render
from sga_kohya.hsd.detect import DETECTORS
from sga_kohya.hsd.kits import make_detector
from sga_kohya.kit import values

LEVELS = (LevelConfig("macro", 512, tau_up=1.0), LevelConfig("meso", 512), LevelConfig("micro", 512))


class Fixed:
    """Answers with the boxes it was given, whatever it sees."""

    name = "fixed"

    def __init__(self, **boxes: Sequence[tuple[Box, float]]) -> None:
        self.boxes: Mapping[str, Sequence[tuple[Box, float]]] = boxes

    def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
        return [[Detection(box, score, level) for box, score in self.boxes.get(level, ())] for _ in views]


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def whole(image: np.ndarray) -> View:
    size = image.shape[1::-1]
    return View(image, "photo.png", Box.whole(size), size)


def one_region(image: np.ndarray, detector: Fixed, config: HsdConfig) -> Region:
    ((region,),) = decompose([("photo.png", image)], detector, config)
    return region


def kept(region: Region) -> list[Crop]:
    return [crop for crop in region.crops if crop.kept]


def levels_kept(region: Region) -> list[str]:
    return [crop.level for crop in kept(region)]


def test_three_levels_of_one_photo():
    detector = Fixed(meso=[(Box(100, 100, 612, 612), 0.9)], micro=[(Box(300, 300, 556, 556), 0.8)])
    macro, meso, micro = one_region(noise(1024, 1024), detector, HsdConfig(LEVELS)).crops
    assert (macro.box, macro.size, macro.scale, macro.score) == (Box(0, 0, 1024, 1024), (512, 512), 0.5, None)
    assert (meso.box, meso.size, meso.scale, meso.score) == (Box(100, 100, 612, 612), (512, 512), 1.0, 0.9)
    assert (micro.box, micro.size, micro.scale) == (Box(300, 300, 556, 556), (512, 512), 2.0)


def test_a_slice_that_needs_too_much_upscale_is_discarded_with_its_reason():
    detector = Fixed(micro=[(Box(0, 0, 127, 127), 1.0)])
    region = one_region(noise(1024, 1024), detector, HsdConfig(LEVELS))
    assert levels_kept(region) == ["macro"]
    assert region.crops[1].reason == "too small: 127x127 takes 2.02x to reach 256x256, above tau_up 2"
    assert region.crops[1].size is None


def test_a_small_slice_takes_a_smaller_size_rather_than_too_much_upscale():
    detector = Fixed(micro=[(Box(0, 0, 255, 255), 1.0)])
    micro = one_region(noise(1024, 1024), detector, HsdConfig(LEVELS)).crops[1]
    assert (micro.box, micro.size) == (Box(0, 0, 255, 255), (448, 448))
    assert micro.scale == pytest.approx(448 / 255)


@pytest.mark.parametrize(
    ("side", "size", "scale"), [(512, 512, 1.0), (600, 512, 0.8533), (511, 448, 0.8767), (300, 256, 0.8533)]
)
def test_the_macro_slice_takes_the_largest_size_that_fits(side, size, scale):
    (macro,) = one_region(noise(side, side), Fixed(), HsdConfig(LEVELS)).crops
    assert macro.size == (size, size)
    assert macro.scale == pytest.approx(scale, abs=1e-4)


def test_a_tiny_photo_yields_only_a_reason():
    (macro,) = one_region(noise(400, 200), Fixed(micro=[(Box(0, 0, 150, 150), 1.0)]), HsdConfig(LEVELS)).crops
    assert macro.reason == "too small: 400x200 takes 1.28x to reach 256x256, above tau_up 1"


def test_duplicates_within_a_level_are_judged_by_containment():
    face, loose, other = Box(10, 10, 40, 40), Box(0, 0, 100, 100), Box(200, 0, 240, 40)
    detections = [Detection(box, score, "micro") for box, score in ((loose, 0.5), (face, 0.9), (other, 0.1))]
    assert [d.box for d in choose(detections, 0.6, 9).chosen] == [face, other], "IoU of face and loose is only 0.09"


def test_max_slices_limits_a_level():
    boxes = [(Box(x, 0, x + 300, 300), 1 - x / 2000) for x in (0, 350, 700)]
    config = HsdConfig((LEVELS[0], LEVELS[1], LevelConfig("micro", 512, max_slices=2)))
    region = one_region(noise(1024, 1024), Fixed(micro=boxes), config)
    assert [s.box.x0 for s in kept(region)[1:]] == [0, 350]
    assert [(s.box.x0, s.reason) for s in region.crops if not s.kept] == [
        (700, "surplus: 1 more than max_slices 2, this the best")
    ]


def test_the_coarser_of_a_redundant_pair_goes():
    detector = Fixed(meso=[(Box(0, 0, 400, 400), 1.0)], micro=[(Box(0, 0, 400, 380), 1.0)])
    region = one_region(noise(1024, 1024), detector, HsdConfig(LEVELS))
    assert levels_kept(region) == ["macro", "micro"]
    assert region.crops[1].reason == "redundant: IoU 0.95 with micro is above 0.7"


def test_what_is_suppressed_suppresses_nothing():
    levels = (*LEVELS, LevelConfig("nano", 512))
    pairs = {("meso", "micro"): 0.5, ("micro", "nano"): 0.5}
    boxes = {"meso": (0, 0, 600, 600), "micro": (0, 0, 500, 500), "nano": (0, 0, 400, 400)}
    detector = Fixed(**{level: [(Box(*box), 1.0)] for level, box in boxes.items()})
    region = one_region(noise(1024, 1024), detector, HsdConfig(levels, redundant_iou=pairs))
    assert levels_kept(region) == ["macro", "meso", "nano"]


def test_a_close_up_suppresses_the_macro_slice_only_when_it_survives_itself():
    config = HsdConfig(LEVELS, redundant_iou={("macro", "meso"): 0.8})
    close_up = Fixed(meso=[(Box(0, 0, 1000, 1000), 1.0)])
    assert levels_kept(one_region(noise(1024, 1024), close_up, config)) == ["meso"]
    strict = HsdConfig(
        (LEVELS[0], LevelConfig("meso", 1024, ((1024, 1024),), tau_up=1.0)), redundant_iou={("macro", "meso"): 0.8}
    )
    small = Fixed(meso=[(Box(0, 0, 590, 590), 1.0)])
    assert levels_kept(one_region(noise(600, 600), small, strict)) == ["macro"]


def test_tau_down_cuts_at_the_photo_s_own_scale():
    levels = (LEVELS[0], LevelConfig("meso", 512, tau_down=1.5))
    cut = one_region(noise(1024, 1024), Fixed(meso=[(Box(100, 100, 800, 800), 1.0)]), HsdConfig(levels)).crops[1]
    assert (cut.box, cut.scale) == (Box(194, 194, 706, 706), 1.0)
    beyond = one_region(noise(1024, 1024), Fixed(meso=[(Box(100, 100, 900, 900), 1.0)]), HsdConfig(levels)).crops[1]
    assert (beyond.box, beyond.scale) == (Box(100, 100, 900, 900), 0.64)


def test_finer_boxes_are_placed_in_source_pixels_and_kept_inside_the_macro_frame():
    # 1024x600 is cut to a frame; detections count from that frame's corner and may overshoot it.
    detector = Fixed(meso=[(Box(-50, 0, 400, 400), 1.0), (Box(700, 300, 2000, 2000), 0.5)])
    config = HsdConfig((LevelConfig("macro", sizes=((512, 512),), tau_up=1.0), LevelConfig("meso", 512, max_slices=2)))
    macro, *finer = one_region(noise(1024, 600), detector, config).crops
    assert macro.box == Box(212, 0, 812, 600)
    assert len(finer) == 1, "the second lies outside the frame"
    assert finer[0].box.x0 == 212 and finer[0].box.inside(macro.box)


def test_render_copies_pre_sized_pixels_and_hits_the_size_otherwise():
    image = noise(512, 512)
    (macro,) = one_region(image, Fixed(), HsdConfig(LEVELS)).crops
    assert np.array_equal(render(image, macro), image)
    large = noise(1300, 900)
    (macro,) = one_region(large, Fixed(), HsdConfig(LEVELS)).crops
    assert render(large, macro).shape[1::-1] == macro.size
    (tiny,) = one_region(noise(100, 100), Fixed(), HsdConfig(LEVELS)).crops
    with pytest.raises(ValueError, match="discarded"):
        render(image, tiny)


def test_the_heuristic_finds_the_one_object_and_is_deterministic():
    image = np.full((400, 600, 3), 120, np.uint8)
    image[250:330, 400:480] = (220, 40, 30)
    detector = make_detector(HsdConfig(), Path())
    for level in ("meso", "micro"):
        best = detector.detect([whole(image)], level)[0][0]
        assert Box(400, 250, 480, 330).inside(best.box), best
        assert detector.detect([whole(image[::-1].copy()), whole(image)], level)[1][0] == best, (
            "independent of its batch"
        )
    meso, micro = (detector.detect([whole(image)], level)[0][0].box for level in ("meso", "micro"))
    assert micro.inside(meso) and micro.area < 0.7 * meso.area


def test_the_heuristic_prefers_the_middle():
    image = np.full((400, 600, 3), 120, np.uint8)
    for x in (20, 270):
        image[170:230, x : x + 60] = (220, 40, 30)
    (found,) = make_detector(HsdConfig(), Path()).detect([whole(image)], "micro")
    assert Box(270, 170, 330, 230).inside(found[0].box)


def test_the_heuristic_finds_nothing_in_nothing():
    blank = np.full((300, 300, 3), 255, np.uint8)
    assert make_detector(HsdConfig(), Path()).detect([whole(blank)], "micro") == [[]]


def test_the_heuristic_sees_faces_and_animals_in_real_photos():
    data = pytest.importorskip("skimage.data")
    detector = make_detector(HsdConfig(detector_options={"threshold": 0}), Path())
    face, eye = Box(190, 70, 270, 170), (180, 115)
    found = detector.detect([whole(data.astronaut()), whole(data.chelsea())], "micro")
    assert face.inside(found[0][0].box)
    cat = found[1][0].box
    assert cat.x0 <= eye[0] < cat.x1 and cat.y0 <= eye[1] < cat.y1


def test_one_s_own_detector_plugs_in_by_name_and_reads_its_options(monkeypatch):
    monkeypatch.setitem(DETECTORS, "fixed", DETECTORS["heuristic"])
    monkeypatch.delitem(DETECTORS, "fixed")
    asked = {}

    def create(options: Options, photos: Path) -> Fixed:
        asked.update(
            n=options.read("n", values.whole(1), 2),
            levels=options.levels,
            detected=options.detected,
            device=options.device,
        )
        options.finish()
        return Fixed()

    register_detector("fixed", create)
    config = HsdConfig(LEVELS, detector="fixed", detector_options={"n": 7}, device="cpu")
    names = [level.name for level in LEVELS]
    assert make_detector(config, Path()).name == "fixed"
    assert asked == {"n": 7, "levels": names, "detected": names[1:], "device": "cpu"}
    make_detector(replace(config, mode="split"), Path())
    assert asked["detected"] == names, "regions are looked for"
    with pytest.raises(SgaError, match="detector fixed: m is unknown: known are n"):
        make_detector(replace(config, detector_options={"m": 7}), Path())
    with pytest.raises(ValueError, match="already registered"):
        register_detector("fixed", create)


SPLIT = HsdConfig((LevelConfig("macro", 512, tau_up=1.0, max_slices=2), *LEVELS[1:]), mode="split")


class Parts:
    """Two regions in a photo, and inside each region one box, counted from the region's corner."""

    name = "parts"

    def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
        boxes = {
            "macro": [(Box(0, 0, 512, 512), 0.7), (Box(600, 100, 1112, 612), 0.9), (Box(0, 520, 400, 920), 0.5)],
            "meso": [(Box(10, 10, 310, 310), 0.8)],
        }
        return [[Detection(box, score, level, f"a {level}") for box, score in boxes.get(level, ())] for _ in views]


def test_split_mode_makes_one_group_of_each_region():
    ((first, second, surplus),) = decompose([("photo.jpg", noise(1200, 1000))], Parts(), SPLIT)
    assert [(p.level, p.box, p.score, p.label) for p in first.crops] == [
        ("macro", Box(600, 100, 1112, 612), 0.9, "a macro"),
        ("meso", Box(610, 110, 910, 410), 0.8, "a meso"),
    ]
    assert [p.box for p in second.crops] == [Box(0, 0, 512, 512), Box(10, 10, 310, 310)]
    assert [d.box for d in first.seen] == [Box(610, 110, 910, 410)]
    (left,) = surplus.crops
    assert (left.box, left.reason) == (
        Box(0, 520, 400, 920),
        "surplus: 1 more than max_slices 2, this the best",
    )


def test_split_mode_does_not_depend_on_the_other_photos_of_a_batch():
    photos = [("a", noise(1200, 1000)), ("b", noise(700, 700)), ("c", noise(1200, 1000))]
    together = decompose(photos, Parts(), SPLIT)
    assert together == [decompose([photo], Parts(), SPLIT)[0] for photo in photos]
    assert [sum(bool(kept(region)) for region in regions) for regions in together] == [2, 2, 2]


def test_split_mode_names_a_photo_without_regions():
    ((region,),) = decompose([("photo.jpg", noise(900, 900))], Fixed(meso=[(Box(0, 0, 500, 500), 1.0)]), SPLIT)
    (piece,) = region.crops
    assert (piece.level, piece.reason) == ("macro", "no region: fixed found no macro in it")


def test_a_region_that_is_too_small_is_discarded_with_its_reason():
    detector = Fixed(macro=[(Box(0, 0, 100, 100), 0.9), (Box(200, 200, 900, 900), 0.4)])
    small, large = decompose([("photo.jpg", noise(1000, 1000))], detector, SPLIT)[0]
    assert small.crops[0].reason.startswith("too small: 100x100 takes 2.56x")
    assert large.crops[0].box == Box(200, 200, 900, 900)


def test_any_number_of_levels():
    levels = tuple(LevelConfig(name, 256, tau_up=4.0) for name in ("scene", "person", "face", "eye"))
    boxes = {"person": (200, 100, 700, 900), "face": (300, 150, 600, 450), "eye": (350, 200, 450, 300)}
    detector = Fixed(**{level: [(Box(*box), 1.0)] for level, box in boxes.items()})
    region = one_region(noise(1000, 1000), detector, HsdConfig(levels, min_size=128))
    assert levels_kept(region) == ["scene", "person", "face", "eye"]
    two = HsdConfig((levels[0], levels[3]), min_size=128)
    assert levels_kept(one_region(noise(1000, 1000), detector, two)) == ["scene", "eye"]


def test_only_crops_below_their_size_are_enlarged_by_the_upscaler():
    asked = []

    def enlarge(pixels, size):
        asked.append((pixels.shape[1::-1], size))
        return np.zeros((size[1], size[0], 3), np.uint8)

    image = noise(1024, 1024)
    detector = Fixed(meso=[(Box(0, 0, 512, 512), 1.0)], micro=[(Box(0, 0, 300, 300), 1.0)])
    made = [render(image, piece, enlarge) for piece in one_region(image, detector, HsdConfig(LEVELS)).crops]
    assert asked == [((300, 300), (512, 512))]
    assert [pixels.shape[:2] for pixels in made] == [(512, 512)] * 3 and not made[2].any() and made[0].any()


def named(*things: tuple[str, tuple[int, int, int, int], float]) -> list[Detection]:
    return [Detection(Box(*box), score, "meso", label) for label, box, score in things]


def test_things_on_a_thing_are_things_of_their_own():
    table, cup, spoon = (
        ("table", (0, 0, 1000, 600), 0.9),
        ("cup", (100, 50, 300, 300), 0.8),
        ("cup", (400, 50, 600, 300), 0.7),
    )
    choice = choose(named(table, cup, spoon), 0.6, 9)
    assert [d.label for d in choice.chosen] == ["table", "cup", "cup"] and choice.discards == []


def test_a_child_in_its_mother_s_arms_is_no_duplicate_of_her():
    mother, child = ("person", (0, 0, 500, 1000), 0.9), ("person", (150, 300, 400, 700), 0.8)
    assert len(choose(named(mother, child), 0.6, 9).chosen) == 2


def test_one_thing_found_twice_goes_once_and_has_its_row():
    face, loose, cat = ("face", (10, 10, 80, 80), 0.9), ("Face", (0, 0, 100, 100), 0.5), ("cat", (8, 10, 80, 80), 0.4)
    choice = choose(named(face, loose, cat), 0.6, 9)
    assert [d.label for d in choice.chosen] == ["face"]
    assert [crop.reason for crop in choice.discards] == [
        "duplicate: IoU 0.49, 100% of the smaller shared with a better face",
        "duplicate: IoU 0.97, 100% of the smaller shared with a better face",
    ]


def test_every_detection_of_a_level_is_a_slice_or_has_a_reason():
    boxes = [Box(x, y, x + 300, y + 300) for x in range(0, 700, 50) for y in range(0, 700, 50)]
    found = [(box, 1 - i / 1000) for i, box in enumerate(boxes)]
    config = HsdConfig((LEVELS[0], replace(LEVELS[1], max_slices=3), LEVELS[2]))
    for detector in (Fixed(meso=found), Fixed(meso=found, micro=found)):
        pieces = one_region(noise(1024, 1024), detector, config).crops
        reasons = [piece.reason or "kept" for piece in pieces if piece.level == "meso"]
        (surplus,) = (int(reason.split()[1]) for reason in reasons if reason.startswith("surplus: "))
        assert len(reasons) - 1 + surplus == len(boxes)
        assert {reason.split(":")[0] for reason in reasons} >= {"duplicate", "surplus"}


@pytest.mark.parametrize(("width", "height", "kept"), [(1000, 255, True), (240, 240, True), (1000, 230, False)])
def test_a_photo_that_misses_the_smallest_size_by_a_little_is_enlarged_by_that_little(width, height, kept):
    config = HsdConfig((LevelConfig("macro", 1024, tau_up=1.0), LEVELS[2]))
    (macro,) = one_region(noise(width, height), Fixed(), config).crops
    assert macro.kept == kept
    assert not kept or (1 < macro.scale <= 1.1 and min(macro.size) == 256)
    assert kept or macro.reason == "too small: 1000x230 takes 1.11x to reach 256x256, above tau_up 1"
