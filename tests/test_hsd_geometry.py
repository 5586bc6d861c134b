"""sga_kohya.hsd: geometry, target sizes, configuration and names, by values."""

import itertools
from pathlib import PureWindowsPath
from random import Random

import pytest

from sga_kohya.errors import SgaError
from sga_kohya.hsd import Box, Detection, HsdConfig, LevelConfig
from sga_kohya.hsd.cut.adapt import adapt, scales_to, tabled
from sga_kohya.hsd.cut.geometry import aspect_error, best_aspect_match, centred_box, containment, framing_crop, iou
from sga_kohya.hsd.cut.sizes import target_sizes
from sga_kohya.hsd.out.names import assign_roots, slice_stem, slug


def test_iou_and_containment_by_values():
    a, b = Box(0, 0, 10, 10), Box(5, 0, 15, 10)
    assert iou(a, b) == pytest.approx(50 / 150)
    assert containment(a, b) == pytest.approx(0.5)
    inner = Box(2, 2, 7, 7)
    assert iou(a, inner) == pytest.approx(25 / 100), "nested: the ratio of the areas"
    assert containment(a, inner) == 1.0
    assert iou(a, Box(10, 0, 20, 10)) == 0.0, "boxes are half open: touching is not overlapping"


def test_boxes_clip_shift_and_refuse_to_be_empty():
    assert Box(-5, -5, 5, 20).clipped(Box(0, 0, 10, 10)) == Box(0, 0, 5, 10)
    assert Box(20, 0, 30, 10).clipped(Box(0, 0, 10, 10)) is None
    assert Box(1, 2, 3, 4).shifted(10, 20) == Box(11, 22, 13, 24)
    assert Box(1, 1, 3, 3).inside(Box(1, 1, 3, 3)) and not Box(0, 1, 3, 3).inside(Box(1, 1, 3, 3))
    with pytest.raises(ValueError, match="empty box"):
        Box(3, 0, 3, 5)


def test_aspect_error_is_symmetric():
    assert aspect_error((200, 100), (64, 64)) == pytest.approx(aspect_error((100, 200), (64, 64)))
    assert aspect_error((300, 200), (768, 512)) == 0


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1000, 1000), (512, 512)), ((3000, 2000), (576, 384)), ((300, 900), (256, 768)), ((550, 660), (448, 512))],
)
def test_best_aspect_match_is_the_largest_of_the_close_ones(size, expected):
    assert best_aspect_match(size, target_sizes(512)) == expected


def test_best_aspect_match_prefers_aspect_beyond_the_tolerance():
    assert best_aspect_match((100, 200), [(512, 512), (256, 512)]) == (256, 512)
    with pytest.raises(ValueError, match="no target size"):
        best_aspect_match((100, 200), [])


def test_framing_crop_grows_and_shifts():
    bounds = Box(0, 0, 100, 100)
    assert framing_crop(Box(40, 40, 60, 60), bounds, (2, 1)) == Box(30, 40, 70, 60)
    assert framing_crop(Box(0, 40, 20, 60), bounds, (2, 1)) == Box(0, 40, 40, 60), "shifted in from the left"
    assert framing_crop(Box(40, 90, 60, 100), bounds, (1, 1)) == Box(40, 80, 60, 100), "shifted up from the bottom"
    assert framing_crop(Box(0, 40, 100, 60), bounds, (2, 1)) == Box(0, 25, 100, 75)
    assert framing_crop(bounds, bounds, (2, 1)) == Box(0, 25, 100, 75), "no room: cut about the centre"


def test_framing_crop_never_cuts_where_there_is_room():
    bounds = Box(10, 20, 210, 170)
    aspects = [(1, 1), (2, 3), (3, 2), (4, 3), (2, 1)]
    edges = itertools.product((10, 63, 150), (20, 77, 120), (7, 31, 60), (9, 28, 50), aspects)
    for x, y, width, height, aspect in edges:
        box = Box(x, y, x + width, y + height)
        frame = framing_crop(box, bounds, aspect)
        assert frame.inside(bounds)
        needed = max(width, height * aspect[0] / aspect[1]), max(height, width * aspect[1] / aspect[0])
        if needed[0] <= bounds.width and needed[1] <= bounds.height:
            assert box.inside(frame), (box, aspect, frame)
        assert abs(frame.width - frame.height * aspect[0] / aspect[1]) <= 1.5 * max(aspect) / min(aspect)


@pytest.mark.parametrize("level", [LevelConfig("macro", 1024, tau_up=1.0), LevelConfig("micro", 512, tau_up=1.25)])
def test_all_sizes_at_once_are_what_each_is_by_itself(level):
    """As Algorithm 1 has it, target by target."""
    targets = level.targets(256)
    random = Random(0)
    for _ in range(60):
        bounds = Box(0, 0, random.randrange(200, 3000), random.randrange(200, 3000))
        x, y = random.randrange(bounds.width - 1), random.randrange(bounds.height - 1)
        box = Box(x, y, random.randrange(x + 1, bounds.width + 1), random.randrange(y + 1, bounds.height + 1))
        frames = [(target, framing_crop(box, bounds, target)) for target in targets]
        scales = [max(width / frame.width, height / frame.height) for (width, height), frame in frames]
        assert scales_to(tabled(targets), box.size, bounds.size).tolist() == scales
        crop = adapt(Detection(box, 1.0, level.name), bounds, level, 256, 1.0)
        usable = [target for target, scale in zip(targets, scales, strict=True) if scale <= level.tau_up]
        assert crop.kept == bool(usable)
        if usable:
            assert crop.size == best_aspect_match(box.size, usable) and crop.scale == scales[targets.index(crop.size)]


def test_centred_box_stays_in_bounds():
    assert centred_box(Box(0, 0, 10, 10), Box(0, 0, 100, 100), (20, 20)) == Box(0, 0, 20, 20)
    assert centred_box(Box(45, 45, 55, 55), Box(0, 0, 100, 100), (20, 40)) == Box(40, 30, 60, 70)


@pytest.mark.parametrize("resolution", [256, 512, 1024, 1280])
def test_target_sizes_are_buckets(resolution):
    sizes = target_sizes(resolution)
    assert (resolution, resolution) in sizes
    assert len(set(sizes)) == len(sizes)
    for width, height in sizes:
        assert width % 64 == height % 64 == 0
        assert width * height <= resolution**2
        assert 256 <= width <= 2 * resolution and (height, width) in sizes


def test_config_lists_every_problem_at_once():
    levels = (LevelConfig("macro", resolution=1000), LevelConfig("macro", tau_up=0.5))
    with pytest.raises(SgaError) as caught:
        HsdConfig(levels, detector="nope", format="bmp", redundant_iou={("micro", "macro"): 2.0}, batch_size=0)
    message = str(caught.value)
    for part in (
        "1000",
        "names must differ",
        "tau_up 0.5",
        "'nope'",
        "heuristic",
        "'bmp'",
        "micro/macro",
        "batch_size",
    ):
        assert part in message


def test_config_takes_any_ordered_levels():
    config = HsdConfig(tuple(map(LevelConfig, ("scene", "person", "face", "eye"))))
    assert [level.folder for level in config.levels] == ["1_scene", "1_person", "1_face", "1_eye"]
    assert config.iou_thresholds["person", "eye"] == 0.7
    assert ("scene", "person") not in config.iou_thresholds, "the region is compared only on request"
    with pytest.raises(SgaError, match="at least two"):
        HsdConfig((LevelConfig("scene"),))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("My photo (1)", "My-photo_1"),
        ("a-2", "a_2"),
        ("a-r2", "a_r2"),
        ("a_b_c", "a_b_c"),
        ("a_b_c_d_e_f", "a-b-c-d-e-f"),
        ("café/日本", "café-日本"),
        ("..", "photo"),
        ("aux", "aux_"),
        ("CON", "CON_"),
        ("nul.tar", "nul_.tar"),
        ("com7", "com7_"),
        ("LPT¹", "LPT¹_"),
        ("console", "console"),
        ("a. ", "a"),
        ("trailing...", "trailing"),
    ],
)
def test_slug(name, expected):
    assert slug(name) == expected


def test_every_name_is_one_that_windows_takes():
    odd = [
        "aux.jpg",
        "AUX/a.jpg",
        "con.con.png",
        "a:b.jpg",
        "a\\b.jpg",
        "q?.png",
        "a. .jpg",
        "nul .jpg",
        "prn",
        "\x01.png",
    ]
    for root in assign_roots(odd).values():
        for name in (
            f"{slice_stem(root, r, i)}{suffix}" for r in (1, 2) for i in (1, 2) for suffix in (".png", ".txt")
        ):
            assert not PureWindowsPath(name).is_reserved() and not set(name) & set('<>:"/\\|?*'), name
            assert name.isprintable() and not PureWindowsPath(name).stem.endswith((".", " "))


def test_roots_never_collide():
    sources = [
        "a.jpg",
        "A.png",
        "x/a.jpg",
        "y/a.jpg",
        "a-2.jpg",
        "a-r2.jpg",
        "a_2.jpg",
        "x-a.webp",
        "a.b.jpg",
        "a b.jpg",
    ]
    roots = assign_roots(sources)
    assert roots == assign_roots(reversed(sources))
    assert roots["x/a.jpg"] != roots["y/a.jpg"]
    stems = [slice_stem(root, r, i).casefold() for root in roots.values() for r in (1, 2, 3) for i in (1, 2, 3)]
    assert len(set(stems)) == len(sources) * 9
    assert all(stem.count("_") < 4 for stem in stems), "sd-scripts would cut fields off"


def test_roots_avoid_names_of_other_files():
    assert assign_roots(["a.jpg"], taken=["A-2"]) != {"a.jpg": "a"}
    assert assign_roots(["a.jpg"], taken=["b"]) == {"a.jpg": "a"}


def test_slice_stem():
    assert [slice_stem("a", *n) for n in ((1, 1), (1, 2), (2, 1), (2, 3))] == ["a", "a-2", "a-r2", "a-r2-3"]
