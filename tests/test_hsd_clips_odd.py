"""Clips as strangers have them: each is cut as a person sees it, or named with its reason."""

import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sga_kohya.hsd import run
from sga_kohya.hsd.clips import hdr
from sga_kohya.hsd.clips.colour import Shape, quarter_turns, to_rgb, yuv_to_rgb
from sga_kohya.hsd.clips.cutting import CUT_INSIDE
from sga_kohya.hsd.clips.grid import Span, length, nearest, windows
from sga_kohya.hsd.clips.labels import longest, parse_labels
from sga_kohya.hsd.clips.levels import clip_sizes
from sga_kohya.hsd.clips.looking import Look
from sga_kohya.hsd.clips.moments import moments
from sga_kohya.hsd.clips.reading import Damage, examine, frames
from sga_kohya.hsd.clips.shots import longest_shot
from sga_kohya.hsd.clips.through import Track, believed, taken_together, tracks
from sga_kohya.hsd.cut.geometry import Box
from sga_kohya.hsd.detect import Detection
from sga_kohya.hsd.out.summary import summarise

from . import clips
from .test_hsd_clips import CONFIG, manifest, slices

with clips.known():
    WHOLE = replace(
        CONFIG, clips="temporal", clip_labels=parse_labels(["long:9:256", "still:1:256"]), near_duplicates=-1
    )


@pytest.fixture(autouse=True)
def red():
    with clips.known():
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def one(folder: Path, out: Path, config=WHOLE) -> dict:
    run(folder, out, config)
    return slices(out)


def test_a_phone_s_clip_that_lies_on_its_side_is_turned_upright(folder, tmp_path):
    for name, degrees, there in (("left", 90, (0, -1)), ("half", 180, (-1, -1)), ("right", 270, (-1, 0))):
        path = clips.write(folder / f"{name}.mp4", 12, draw=corner)
        turn(path, degrees)
        clip = examine(path)
        assert clip.size == ((192, 320) if degrees % 180 else (320, 192))
        run(folder, tmp_path / name, WHOLE)
        row = slices(tmp_path / name)["long"]
        frame = clips.read(tmp_path / name / row["file"])[0]
        assert row["source_size"] == list(clip.size) and (frame.shape[0] > frame.shape[1]) == bool(degrees % 180)
        y, x = there
        assert frame[y * 8 or 8, x * 8 or 8, 0] > 150 and frame[..., 0].mean() < 100, name
        path.unlink()


def corner(number: int) -> np.ndarray:
    """Red in the corner at the top on the left."""
    pixels = np.full((192, 320, 3), 60, np.uint8)
    pixels[:64, :64] = clips.RED
    return pixels


def turn(path: Path, degrees: int) -> None:
    """Writes a display matrix that says to turn clockwise into the header of the track."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    values = [cos * 65536, sin * 65536, 0, -sin * 65536, cos * 65536, 0, 0, 0, 1 << 30]
    data[place : place + 36] = np.array(values, ">i4").tobytes()
    path.write_bytes(data)


def test_turns_are_counted_counter_clockwise():
    for degrees, turns in ((0, 0), (90, 3), (180, 2), (270, 1)):
        cos, sin = round(np.cos(np.radians(degrees))), round(np.sin(np.radians(degrees)))
        assert quarter_turns((np.array([cos, sin, 0, -sin, cos, 0, 0, 0, 1]) * 65536).astype("<i4").tobytes()) == turns


def test_pixels_that_are_not_square_become_square(folder, tmp_path):
    clips.write(folder / "a.mp4", 12, sample_aspect_ratio=Fraction(3, 2))
    row = one(folder, tmp_path / "out")["long"]
    assert row["source_size"] == [480, 192]


def test_frames_of_a_clip_with_a_rate_of_its_own_are_those_of_their_times(folder, tmp_path):
    # Twice as fast from its middle on: what is seen moves evenly in time, not in frames.
    times = [*(n / 8 for n in range(16)), *(2 + n / 32 for n in range(64))]
    clips.write(
        folder / "a.mp4", len(times), times=times, draw=lambda n: clips.picture(0, step=0) + round(times[n] * 16)
    )
    clip = examine(folder / "a.mp4")
    seen = list(nearest(frames(clip), 16, Span(0, length(clip, 16)), 1 / clip.fps))
    assert length(clip, 16) == 64
    stamps = [float(frame.pts * frame.time_base) for _, frame in seen]
    for place, stamp in zip(range(64), stamps, strict=True):
        assert abs(stamp - place / 16) <= (1 / 16 if place < 32 else 1 / 64) + 1e-3


def test_a_clip_of_fewer_frames_a_second_repeats_some_and_it_is_said(folder, tmp_path):
    clips.write(folder / "a.mp4", 20, fps=8)
    result = run(folder, tmp_path / "out", CONFIG)
    assert slices(tmp_path / "out")["macro"]["frames"] == 17
    assert "warning: 1 clip, fewer frames a second than the slices: some are repeated: a.mp4" in summarise(
        result, CONFIG
    )


def sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_what_is_no_clip_is_named_with_its_reason_and_counted(folder, tmp_path):
    clips.write(folder / "good.mp4")
    whole = clips.write(tmp_path / "whole.mp4").read_bytes()
    (folder / "end.mp4").write_bytes(whole[: len(whole) // 2])  # without the index, which lies at its end
    (folder / "noise.avi").write_bytes(bytes(range(256)) * 40)
    (folder / "empty.mov").write_bytes(b"")
    sound(folder / "sound.mp4")
    clips.write(folder / "one.mp4", 1)
    (folder / "gone.webm").symlink_to(tmp_path / "nowhere")
    result = run(folder, tmp_path / "out", CONFIG)
    reasons = {row["source"]: row["reason"] for row in manifest(tmp_path / "out") if row["reason"] and not row["group"]}
    assert reasons.keys() == {"end.mp4", "noise.avi", "empty.mov", "sound.mp4", "one.mp4", "gone.webm"}
    assert reasons["sound.mp4"] == "unreadable: no video in it, only sound"
    assert reasons["one.mp4"].startswith("too short: 1 frames")
    assert all(reasons[name].startswith("unreadable: no container") for name in ("end.mp4", "noise.avi", "empty.mov"))
    assert reasons["gone.webm"] == "unreadable: No such file or directory"
    assert result.clips.lost == {"unreadable": 5, "too short": 1} and result.clips.used == 1
    said = summarise(result, CONFIG)
    assert "clips    7 found, 1 used, 6 skipped" in said and "5 clips were skipped, unreadable:" in said


def test_a_clip_that_is_cut_short_gives_what_is_there_and_it_is_said(folder, tmp_path):
    data = clips.write(tmp_path / "whole.mkv", 80).read_bytes()
    (folder / "a.mkv").write_bytes(data[: len(data) * 6 // 10])
    rows = one(folder, tmp_path / "out", CONFIG)
    assert rows["macro"]["frames"] == 17
    start = round(rows["macro"]["start"] * 16)
    assert 8 < start < 20, "of the middle of what is there"


def test_damage_in_its_middle_leaves_out_the_frames_that_it_hits(folder, tmp_path):
    path = clips.write(folder / "a.mkv", 60)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    path.write_bytes(data)
    run(folder, tmp_path / "out", CONFIG)
    rows = manifest(tmp_path / "out")
    for row in rows:
        if row["file"]:
            assert len(clips.read(tmp_path / "out" / row["file"])) == row["frames"]


@pytest.mark.parametrize(
    ("form", "codec", "suffix"),
    [
        ("yuv420p10le", "libx265", "mp4"),
        ("yuva444p10le", "prores_ks", "mov"),
        ("rgb24", "qtrle", "mov"),
        ("gray", "ffv1", "mkv"),
        ("yuv411p", "ffv1", "mkv"),
        ("bgr0", "ffv1", "avi"),
    ],
)
def test_every_layout_of_pixels_comes_out_as_8_bits_of_rgb(folder, tmp_path, form, codec, suffix):
    size = (322, 190) if form != "yuva444p10le" else clips.SIZE
    clips.write(folder / f"a.{suffix}", 9, size=size, codec=codec, form=form)
    row = one(folder, tmp_path / "out")["long"]
    frame = clips.read(tmp_path / "out" / row["file"])[0].astype(int)
    red = frame[..., 0] - frame[..., 1] > 100
    assert row["source_size"] == list(size) and (red.any() or form == "gray") and frame.std() > 15


def test_the_sharpest_frame_is_the_image_and_everything_longer_lies_around_it(folder, tmp_path):
    import cv2

    def blurred(number: int) -> np.ndarray:
        pixels = clips.picture(number, step=1)
        return pixels if number == 37 else cv2.GaussianBlur(pixels, (0, 0), 4)

    clips.write(folder / "a.mp4", 60, draw=blurred)
    labels = parse_labels(["clip:41:128", "moment:9:192", "frame:1:256"])
    rows = one(folder, tmp_path / "out", replace(WHOLE, clip_labels=labels))
    place = {name: round(row["start"] * 16) for name, row in rows.items()}
    assert place["frame"] == 37 and place["moment"] == 33 and place["clip"] == (60 - 41) // 2
    assert rows["frame"]["file"] == "1_frame/a.png" and rows["frame"]["frames"] == 1
    assert {row["group"] for row in rows.values()} == {"a"}


def test_a_shot_ends_where_the_next_begins(folder, tmp_path):
    pytest.importorskip("scenedetect")
    scenes = [np.roll(clips.picture(20), 90 * number, (0, 2))[:, :: (-1) ** number] for number in range(3)]
    clips.write(folder / "a.mp4", 60, draw=lambda n: scenes[0] if n < 14 else scenes[1] if n < 42 else scenes[2])
    labels = parse_labels(["clip:57:128", "shot:33:128", "frame:1:128"])
    rows = one(folder, tmp_path / "out", replace(WHOLE, clip_labels=labels))
    start = round(rows["shot"]["start"] * 16)
    assert rows["clip"]["frames"] == 57 and start >= 14 and start + rows["shot"]["frames"] <= 42
    assert start <= round(rows["frame"]["start"] * 16) < start + rows["shot"]["frames"]


def test_without_pyscenedetect_the_label_that_needs_it_says_so(folder, tmp_path, monkeypatch):
    clips.write(folder / "a.mp4")
    monkeypatch.setitem(__import__("sys").modules, "scenedetect", None)
    labels = parse_labels(["clip", "shot"])
    with pytest.raises(Exception, match=r'label "shot".*needs scenedetect.*sga-kohya\[shots\]'):
        run(folder, tmp_path / "out", replace(WHOLE, clip_labels=labels))


def test_a_cut_inside_a_fixed_box_is_said_and_neither_motion_nor_a_flash_is_one(folder, tmp_path):
    other = np.random.default_rng(5).integers(0, 255, (24, 40, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    clips.write(folder / "cut.mp4", 17, draw=lambda n: clips.picture(n) if n < 8 else other)
    clips.write(folder / "motion.mp4", 17, draw=lambda n: np.roll(clips.picture(n), 5 * n, 1))
    clips.write(
        folder / "flash.mp4",
        17,
        draw=lambda n: np.minimum(clips.picture(n) + (90 if n == 8 else 0), 255).astype(np.uint8),
    )
    result = run(folder, tmp_path / "out", CONFIG)
    notes = {row["source"]: row["notes"] for row in manifest(tmp_path / "out")}
    assert notes == {"cut.mp4": [CUT_INSIDE], "motion.mp4": [], "flash.mp4": []}
    assert f"1 clip, {CUT_INSIDE}: cut.mp4" in summarise(result, CONFIG)


def test_slices_stay_within_a_shot_where_that_is_asked(folder, tmp_path):
    pytest.importorskip("scenedetect")
    scenes = [np.roll(clips.picture(20), 90 * number, (0, 2))[:, :: (-1) ** number] for number in range(2)]
    clips.write(folder / "a.mp4", 60, draw=lambda n: scenes[0] if n < 34 else scenes[1])
    for config in (CONFIG, replace(CONFIG, clips="both", clip_labels=parse_labels(["long:17:128", "still:1:128"]))):
        rows = one(folder, tmp_path / config.clips, replace(config, clip_shots=True))
        starts = [(round(row["start"] * 16), row["frames"]) for row in rows.values()]
        assert starts[0][1] == 17 and all(start + frames <= 34 or start >= 34 for start, frames in starts)


def track(*boxes: tuple[int, int, int, int] | None) -> Track:
    return Track({n: Detection(Box(*box), 0.5, "meso") for n, box in enumerate(boxes) if box})


def test_one_outlier_is_not_believed_wherever_it_is():
    still = (100, 100, 140, 160)
    for place in range(5):
        boxes = [still] * 5
        boxes[place] = (300, 20, 380, 200)
        assert taken_together(track(*boxes), 5).box == Box(*still), place


def test_even_motion_is_followed_to_both_ends():
    moving = [(100 + 30 * n, 100, 140 + 30 * n, 160) for n in range(5)]
    assert taken_together(track(*moving), 5).box == Box(100, 100, 260, 160)
    assert len(believed(np.arange(5.0), np.array(moving, float))) == 5


def test_jitter_makes_a_box_less_larger_than_the_union():
    jitter = [(100 + d, 100, 140 + d, 160) for d in (0, 8, 0, 8, 0)]
    assert taken_together(track(*jitter), 5).box.width < 48


def test_a_thing_is_followed_beside_another_and_counts_less_where_it_is_missing():
    faces = [Detection(Box(10 + 20 * n, 10, 50 + 20 * n, 50), 0.9, "micro") for n in range(4)]
    others = [Detection(Box(200, 10, 240, 50), 0.8, "micro") for _ in range(4)]
    found = tracks([[faces[0], others[0]], [others[1], faces[1]], [faces[2]], [others[3], faces[3]]])
    assert [sorted(one.found) for one in found] == [[0, 1, 2, 3], [0, 1, 3]]
    assert taken_together(found[1], 4).score == pytest.approx(0.6) and taken_together(found[0], 4).box.x0 == 10


def test_lengths_are_halves_and_windows_even():
    assert [longest(81, there) for there in (100, 81, 80, 41, 40, 20, 8, 4)] == [81, 81, 41, 41, 21, 9, 5, 0]
    assert windows(100, 33, 5) == [Span(0, 33), Span(33, 33), Span(66, 33)] and windows(4, 33, 1) == []
    assert windows(100, 33, 1) == [Span(33, 33)]


def test_every_size_of_a_clip_is_one_that_musubi_tuner_s_buckets_have():
    """Its shortest side is half the root of the area, in 16s; what is longer is resized, whatever it is told."""
    for resolution in (128, 256, 512, 1024):
        sizes = clip_sizes(resolution, 64)
        assert len(sizes) > 3
        for width, height in sizes:
            assert min(width, height) >= math.isqrt(width * height) // 2 // 16 * 16, (width, height)


def test_moments_lie_in_each_other_even_at_an_end():
    labels = parse_labels(["clip:17:128", "moment:9:128", "frame:1:128"])
    found = moments(Span(10, 17), labels, Look(17, [9.0, *[1.0] * 16]))
    assert found == {"clip": Span(10, 17), "moment": Span(10, 9), "frame": Span(10, 1)}
    assert longest_shot(Span(10, 17), [12, 20, 40]) == Span(12, 8)


def test_high_dynamic_range_comes_out_as_usual_screens_show_it(folder, tmp_path):
    """A grey of 18 % of reference white, a red and reference white itself, stored as PQ and as HLG."""
    light = np.array([[0.18] * 3, [0.5, 0.05, 0.05], [1.0] * 3])
    to_2020 = np.linalg.inv(hdr.TO_BT709)
    nits = light @ to_2020.T * hdr.WHITE
    power = (nits / 10000) ** 0.1593017578125
    scene = (nits / hdr.PEAK) ** (1 / 1.2)
    stored = {
        hdr.PQ: ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375,
        hdr.HLG: np.where(
            scene <= 1 / 12, np.sqrt(3 * scene), 0.17883277 * np.log(12 * scene - 0.28466892) + 0.55991073
        ),
    }
    for transfer, signal in stored.items():
        bars = np.repeat(np.rint(signal * 255).astype(np.uint8), 128, 0)[None].repeat(192, 0)
        path = folder / f"{transfer}.mkv"
        clips.write(path, 9, size=(384, 192), codec="ffv1", form="yuv444p16le", draw=lambda _, bars=bars: bars)
        clip = replace(examine(path), shape=Shape(transfer=transfer))
        frame = next(frames(clip))[1]
        seen = to_rgb(_Matrix(frame, 6), clip.shape)[96, 64::128].astype(int)
        assert np.abs(seen[0] - 118).max() <= 4 and np.abs(seen[1] - [188, 63, 63]).max() <= 8, (transfer, seen)
        assert (seen[2] >= 240).all() and (seen[2] < 255).all()
    assert hdr.rolled_off(np.array([0.0, 0.5, 0.75, 50.0])).tolist() == pytest.approx([0.0, 0.5, 0.75, 1.0])


class _Matrix:
    """A frame whose matrix is known to be another than it says."""

    def __init__(self, frame, matrix: int):
        self._frame, self.colorspace = frame, matrix

    def __getattr__(self, name: str):
        return getattr(self._frame, name)


def test_the_transfer_function_of_a_file_is_read_and_said(folder, tmp_path):
    path = clips.write(folder / "a.mp4", 9, codec="libx265", form="yuv420p10le", color_trc=hdr.PQ, colorspace=9)
    clip = examine(path)
    assert clip.shape.transfer == hdr.PQ
    assert clip.notes == ("high dynamic range (PQ) brought to that of usual screens",)


def test_the_matrices_are_those_of_their_standards():
    for matrix, red, blue in ((1, 0.2126, 0.0722), (6, 0.299, 0.114), (9, 0.2627, 0.0593)):
        rgb = np.array([200.0, 40, 90])
        y = rgb @ [red, 1 - red - blue, blue]
        u, v = (rgb[2] - y) / (2 * (1 - blue)) + 128, (rgb[0] - y) / (2 * (1 - red)) + 128
        assert np.allclose(yuv_to_rgb(matrix, full=True) @ [y, u, v, 1], rgb, atol=1e-3)
        limited = [y * 219 / 255 + 16, (u - 128) * 224 / 255 + 128, (v - 128) * 224 / 255 + 128, 1]
        assert np.allclose(yuv_to_rgb(matrix, full=False) @ limited, rgb, atol=1e-3)


def test_a_file_that_is_no_clip_says_why(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no clip at all")
    with pytest.raises(Damage, match="no container that can be read"):
        examine(tmp_path / "a.mp4")
    assert json.dumps(str(tmp_path))  # its path is in the row, not in the reason
