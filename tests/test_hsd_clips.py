"""sga_kohya.hsd on folders with clips: one fixed box through each, the same frames at every level."""

import io
import json
import os
import re
import shutil
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import toml
from PIL import Image

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.granularity import Identifier
from sga_kohya.hsd import HsdConfig, LevelConfig, run
from sga_kohya.hsd.__main__ import main
from sga_kohya.hsd.clips import cutting, looking, saving, writing
from sga_kohya.hsd.clips.colour import to_rgb
from sga_kohya.hsd.clips.labels import parse_labels
from sga_kohya.hsd.cut.geometry import Box
from sga_kohya.hsd.out.summary import summarise
from sga_kohya.hsd.review.album import Album
from sga_kohya.hsd.review.decisions import Writer, key_of
from sga_kohya.hsd.review.sources import LargePictures
from sga_kohya.hsd.settings.config_file import load_config, to_toml

from . import clips

LEVELS = tuple(
    LevelConfig(name, 256, tau_up=tau, min_detail=0) for name, tau in (("macro", 1.0), ("meso", 2.0), ("micro", 4.0))
)
with clips.known():
    CONFIG = HsdConfig(LEVELS, detector="red", near_duplicates=-1, min_size=64, clip_frames=17, clip_resolution=128)


@pytest.fixture(autouse=True)
def red():
    with clips.known():
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photos = tmp_path / "photos"
    photos.mkdir()
    return photos


def slices(out: Path) -> dict[str, dict]:
    """By level, of a run over one clip."""
    return {row["granularity"]: row for row in manifest(out) if row["file"]}


def manifest(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "sga_manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def test_each_level_is_one_fixed_box_with_the_same_frames(folder, tmp_path):
    clips.write(folder / "a.mp4")
    (folder / "a.txt").write_text("a red square")
    result = run(folder, tmp_path / "out", CONFIG)
    rows = slices(tmp_path / "out")
    assert list(rows) == ["macro", "meso", "micro"] and {row["group"] for row in rows.values()} == {"a"}
    for level, row in rows.items():
        frames = clips.read(tmp_path / "out" / row["file"])
        width, height = row["size"]
        assert frames.shape == (17, height, width, 3) and (row["frames"], row["fps"]) == (17, 16.0)
        assert row["file"] == f"{level}_{width}x{height}x17/a.mp4"
        assert (tmp_path / "out" / row["file"]).with_suffix(".txt").read_text() == "a red square\n"
        # The square is whole in the first frame and in the last: the box is that of all frames.
        for frame in (frames[0], frames[-1]):
            red = (frame[..., 0] > 150) & (frame[..., 1] < 110)
            expected = clips.SIDE**2 - 20**2
            scale = row["scale"] ** 2
            assert abs(red.sum() / scale - expected) < 0.2 * expected, level
    start = round(rows["macro"]["start"] * 16)
    left, right = 20 + 2 * start, 20 + 2 * (start + 16) + clips.SIDE
    assert Box(left, 40, right, 40 + clips.SIDE).inside(Box(*rows["micro"]["box"]))
    assert start == (60 - 17) // 2 and result.clips.used == 1 and not result.tally.photos


def test_every_frame_is_the_one_of_its_time(folder, tmp_path):
    clips.write(folder / "a.mp4", frames=100, fps=32)
    run(folder, tmp_path / "out", CONFIG)
    row = slices(tmp_path / "out")["macro"]
    frames = clips.read(tmp_path / "out" / row["file"])
    edges = [np.flatnonzero(((f[..., 0] > 150) & (f[..., 1] < 110)).sum(0) > 5)[0] for f in frames]
    seen = [edge / row["scale"] + row["box"][0] for edge in edges]
    start = row["start"] * 32
    assert np.allclose(seen, [20 + 2 * (start + 2 * number) for number in range(17)], atol=3 / row["scale"])


def test_photos_and_clips_lie_in_one_folder_and_the_photos_are_what_they_are_without_clips(folder, tmp_path):
    for number in range(2):
        Image.fromarray(clips.picture(10 + number, (640, 400))).save(folder / f"p{number}.png")
    run(folder, tmp_path / "before", CONFIG)
    clips.write(folder / "p0.mp4")
    clips.write(folder / "a.mkv", size=(324, 190))
    run(folder, tmp_path / "out", CONFIG)
    before = {p.relative_to(tmp_path / "before"): p for p in (tmp_path / "before").rglob("*.*")}
    for name, path in before.items():
        if len(name.parts) > 1 and path.is_file():
            assert (tmp_path / "out" / name).read_bytes() == path.read_bytes()
    rows = [row for row in manifest(tmp_path / "out") if "frames" not in row]
    assert rows == manifest(tmp_path / "before"), "not a key more"
    groups = {row["group"] for row in manifest(tmp_path / "out") if row["file"]}
    assert groups == {"a", "p0", "p1", "p0-x" + next(g for g in groups if g.startswith("p0-x"))[4:]}


def test_training_finds_granularity_and_group_of_a_clip_by_the_manifest(folder, tmp_path):
    clips.write(folder / "a.mp4")
    run(folder, tmp_path / "out", CONFIG)
    files = sorted((tmp_path / "out").glob("m*_*x*/*.mp4"))
    found = Identifier().identify((file, {}) for file in files)
    assert sorted(i.granularity for i in found) == ["macro", "meso", "micro"] and len({i.group for i in found}) == 1


def test_musubi_tuner_is_told_each_size_and_length_and_others_of_images_alone(folder, tmp_path):
    clips.write(folder / "a.mp4")
    clips.write(folder / "short.mp4", frames=10)
    config = replace(CONFIG, clips="temporal", clip_labels=parse_labels(["long:17:128", "still:1:128"]))
    config = replace(config, export=("diffusion-pipe",))
    run(folder, tmp_path / "out", config)
    text = toml.loads((tmp_path / "out" / "dataset_musubi.toml").read_text(encoding="utf-8"))
    videos = [table for table in text["datasets"] if "video_directory" in table]
    assert [(v["resolution"], v["target_frames"]) for v in videos] == [([128, 64], [9]), ([128, 64], [17])]
    for table in videos:
        assert table["frame_extraction"] == "head" and not table["enable_bucket"] and not table["bucket_no_upscale"]
        assert "source_fps" not in table and len(list(Path(table["video_directory"]).glob("*.mp4"))) == 1
        assert Path(table["cache_directory"]).name == Path(table["video_directory"]).name
    assert [t["image_directory"] for t in text["datasets"] if "image_directory" in t] == [str(tmp_path / "out/1_still")]
    images = toml.loads((tmp_path / "out" / "dataset.toml").read_text(encoding="utf-8"))["datasets"][0]["subsets"]
    assert [subset["custom_attributes"]["granularity"] for subset in images] == ["still"]
    assert "mp4" not in (tmp_path / "out" / "dataset_diffusion_pipe.toml").read_text(encoding="utf-8")


def test_clips_alone_have_a_file_for_musubi_tuner_and_none_for_trainers_of_images(folder, tmp_path, capsys):
    clips.write(folder / "a.mp4")
    arguments = ["--detector", "red", "--clip_resolution", "128", "--clip_frames", "9"]
    assert main([str(folder), str(tmp_path / "out"), *arguments]) == 0
    said = capsys.readouterr().out
    assert (tmp_path / "out" / "dataset_musubi.toml").is_file() and not (tmp_path / "out" / "dataset.toml").exists()
    assert "not with kohya-ss sd-scripts, with this package: it reads images, and there are none" in said
    assert "wan_cache_latents.py" in said and "flux_2" not in said


def test_what_is_finished_is_taken_over_and_what_changed_is_replaced(folder, tmp_path):
    clips.write(folder / "a.mp4")
    clips.write(folder / "b.mp4", frames=40)
    out = tmp_path / "out"
    run(folder, out, CONFIG)
    before = {path: path.stat().st_mtime_ns for path in out.glob("m*_*x*/*")}
    text, asked = (out / "sga_manifest.jsonl").read_bytes(), clips.Red.asked
    result = run(folder, out, CONFIG)
    assert result.clips.reused == 2 and clips.Red.asked == asked
    assert {path: path.stat().st_mtime_ns for path in out.glob("m*_*x*/*")} == before
    assert (out / "sga_manifest.jsonl").read_bytes() == text
    clips.write(folder / "b.mp4", frames=44)
    (folder / "a.mp4").unlink()
    (out / "macro_128x64x17" / "mine.mp4").write_bytes(b"mine")
    result = run(folder, out, CONFIG)
    assert result.clips.reused == 0 and not list(out.glob("m*_*x*/a.*"))
    assert (out / "macro_128x64x17" / "mine.mp4").read_bytes() == b"mine", "what was not written here stays"
    assert "macro_128x64x17/mine.mp4" in result.foreign
    assert not run(folder, out, replace(CONFIG, clip_frames=9)).clips.reused
    assert not list(out.glob("m*_*x17/b.*")) and list(out.glob("m*_*x9/b.mp4"))


def test_a_caption_that_changes_leaves_the_clip_and_one_that_was_edited_stays(folder, tmp_path):
    clips.write(folder / "a.mp4")
    out = tmp_path / "out"
    run(folder, out, CONFIG)
    edited = out / slices(out)["micro"]["file"].replace(".mp4", ".txt")
    edited.write_text("my own words\n")
    cache = out / "cache_musubi" / edited.parent.name / "a_00000-017_0128x0064_wan.safetensors"
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"latents")
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("m*_*x*/*.mp4")}
    (folder / "a.txt").write_text("other words")
    result = run(folder, out, CONFIG)
    assert {path: path.stat().st_mtime_ns for path in out.glob("m*_*x*/*.mp4")} == stamps, "the same bytes"
    assert edited.read_text() == "my own words\n" and edited.relative_to(out).as_posix() in result.edited
    assert (out / slices(out)["meso"]["file"]).with_suffix(".txt").read_text() == "other words\n"
    assert cache.is_file(), "nothing that it was made of has changed"


def test_caches_of_a_clip_go_with_it(folder, tmp_path):
    clips.write(folder / "a.mp4")
    out = tmp_path / "out"
    run(folder, out, CONFIG)
    place = out / "cache_musubi" / Path(slices(out)["macro"]["file"]).parent.name
    place.mkdir(parents=True)
    for name in (
        "a_00000-017_0128x0064_wan.safetensors",
        "a_wan_te.safetensors",
        "a_00000-017-02_0128x0064_fp.safetensors",
    ):
        (place / name).write_bytes(b"cache")
    (place / "ab_00000-017_0128x0064_wan.safetensors").write_bytes(b"another's")
    (folder / "a.mp4").unlink()
    Image.fromarray(clips.picture(1, (640, 400))).save(folder / "p.png")
    run(folder, out, CONFIG)
    assert [path.name for path in place.iterdir()] == ["ab_00000-017_0128x0064_wan.safetensors"]


def test_segments_are_groups_of_their_own_and_share_no_frame(folder, tmp_path):
    clips.write(folder / "a.mp4", frames=100, draw=lambda n: clips.picture(n % 50))
    run(folder, tmp_path / "out", replace(CONFIG, clip_segments=3))
    rows = [row for row in manifest(tmp_path / "out") if row["granularity"] == "macro"]
    assert [row["group"] for row in rows] == ["a", "a-r2", "a-r3"]
    starts = [row["start"] for row in rows]
    assert all(b - a >= 17 / 16 for a, b in zip(starts, starts[1:], strict=False)) and starts[-1] + 17 / 16 <= 100 / 16


def test_clips_are_passed_over_where_they_are_off_and_earlier_slices_go(folder, tmp_path):
    clips.write(folder / "a.mp4")
    Image.fromarray(clips.picture(1, (640, 400))).save(folder / "p.png")
    run(folder, tmp_path / "out", CONFIG)
    result = run(folder, tmp_path / "out", replace(CONFIG, clips="off"))
    assert result.clips is None and result.found.others == {".mp4": ["a.mp4"]}
    assert not list((tmp_path / "out").glob("m*_*x*")) and not list((tmp_path / "out").rglob("*.webp"))


def test_without_pyav_the_error_counts_the_clips_and_names_what_installs_it_and_the_way_round(
    folder, tmp_path, monkeypatch
):
    clips.write(folder / "a.mp4")
    shutil.copy(folder / "a.mp4", folder / "b.mov")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(SgaError) as told:
        run(folder, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()
    there, needed = str(told.value).split(": cutting clips needs av (")
    assert there == "PHOTOS holds 2 clips, such as a.mp4 (--clips off passes over clips and cuts the photos alone)"
    assert needed.endswith('): pip install "sga-kohya[video]" or pip install av')


def test_the_colours_that_musubi_tuner_reads_are_those_of_the_source(folder, tmp_path):
    """PyAV's to_image takes every file for BT.601; a source of BT.709 or of full range has to come out right anyway."""
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30), (128, 128, 128), (12, 12, 12)]
    bars = np.zeros((192, 384, 3), np.uint8)
    for number, colour in enumerate(colours):
        bars[:, 64 * number : 64 * number + 64] = colour
    for name, matrix, full in (("601", 6, False), ("709", 1, False), ("full", 6, True)):
        write_planes(folder / f"{name}.mp4", bars, matrix, full)
    config = replace(CONFIG, clips="temporal", clip_labels=parse_labels(["c:9:256", "s:1:256"]), min_size=64)
    run(folder, tmp_path / "out", config)
    movies = sorted((tmp_path / "out").glob("c_*/*.mp4"))
    assert len(movies) == 3
    for file in movies:
        frame = clips.read(file)[4].astype(int)
        width = frame.shape[1] / 6
        for number, colour in enumerate(colours):
            middle = frame[20:-20, round(width * (number + 0.4)) : round(width * (number + 0.6))]
            assert np.abs(middle - colour).max() <= 6, (file.name, colour)


def test_the_bytes_of_a_slice_are_the_same_on_every_processor(monkeypatch):
    def written() -> bytes:
        movie = writing.Movie((192, 128), 16)
        for number in range(17):
            movie.add(clips.picture(number, (192, 128)))
        return movie.close()

    usual = written()
    monkeypatch.setitem(writing.QUALITY, "x264-params", writing.QUALITY["x264-params"] + ":asm=0")
    assert written() == usual


def write_planes(path: Path, picture: np.ndarray, matrix: int, full: bool) -> None:
    """A clip with planes of a matrix that is computed here."""
    red, blue = (0.2126, 0.0722) if matrix == 1 else (0.299, 0.114)
    pixels = picture.astype(float)
    y = pixels @ [red, 1 - red - blue, blue]
    u, v = (pixels[..., 2] - y) / (2 * (1 - blue)), (pixels[..., 0] - y) / (2 * (1 - red))
    scales = (1, 1, 0) if full else (219 / 255, 224 / 255, 16)
    planes = np.stack([y * scales[0] + scales[2], u * scales[1] + 128, v * scales[1] + 128]).round().clip(0, 255)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=16, options={"crf": "2"})
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "yuv444p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 2 if full else 1
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(planes.astype(np.uint8), format="yuv444p")
            frame.colorspace, frame.color_range, frame.pts = matrix, 2 if full else 1, number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_a_run_that_was_stopped_goes_on_with_the_clips_that_are_not_finished(folder, tmp_path, monkeypatch):
    for name in "abc":
        clips.write(folder / f"{name}.mp4", 20)
    made = cutting.make

    def stopped(clip, *rest):
        if clip.path.name == "b.mp4":
            raise KeyboardInterrupt
        return made(clip, *rest)

    out = tmp_path / "out"
    monkeypatch.setattr(cutting, "make", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(folder, out, CONFIG, workers=1)
    monkeypatch.setattr(cutting, "make", made)
    result = run(folder, out, CONFIG)
    assert result.clips.used == 3 and result.clips.reused >= 1
    run(folder, tmp_path / "straight", CONFIG)
    assert (out / "sga_manifest.jsonl").read_bytes() == (tmp_path / "straight" / "sga_manifest.jsonl").read_bytes()


@pytest.mark.parametrize("mode", ["spatial", "off"])
def test_clips_in_a_folder_that_cannot_be_read_now_stay_in_the_data_sets_unless_clips_are_off(
    folder, tmp_path, monkeypatch, mode
):
    (folder / "sub").mkdir()
    clips.write(folder / "sub" / "a.mp4", 20)
    Image.fromarray(clips.picture(0, (640, 400))).save(folder / "p.png")
    out = tmp_path / "out"
    run(folder, out, CONFIG)
    before, scandir = (out / "dataset_musubi.toml").read_text(encoding="utf-8"), os.scandir

    def refusing(path="."):
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    result = run(folder, out, replace(CONFIG, clips=mode))
    after = (out / "dataset_musubi.toml").read_text(encoding="utf-8")
    assert result.tally.photos == 1 and ("video_directory" in before)
    if mode == "off":
        assert result.unopened == [] and "video_directory" not in after and not list(out.rglob("*.mp4"))
    else:
        assert result.unopened == ["sub/a.mp4"] and after == before and result.clips.used == 1
        assert "1 photo or clip could not be opened now" in summarise(result, CONFIG)


def test_a_clip_that_is_there_twice_is_cut_once_and_again_where_the_first_has_gone(folder, tmp_path):
    clips.write(folder / "a.mp4", 20)
    (folder / "b.mp4").write_bytes((folder / "a.mp4").read_bytes())
    clips.write(folder / "c.mp4", 21)  # looks like them, but is another
    config, out = replace(CONFIG, near_duplicates=4), tmp_path / "out"
    for _ in range(2):
        result = run(folder, out, config)
        left_out = [(row["source"], row["reason"]) for row in manifest(out) if not row["group"]]
        assert left_out == [("b.mp4", "near-duplicate: the same file as a.mp4")]
        assert (result.clips.photos, result.clips.used, result.clips.lost) == (3, 2, {"near-duplicate": 1})
        assert "1 clip was skipped, near-duplicate: b.mp4 (the same file as a.mp4); --near_duplicates -1" in summarise(
            result, config
        )
    assert run(folder, out, CONFIG).clips.used == 3
    run(folder, out, config)
    (folder / "a.mp4").unlink()
    assert run(folder, out, config).clips.used == 2
    assert {row["source"] for row in manifest(out) if row["file"]} == {"b.mp4", "c.mp4"}


def test_what_was_decided_in_the_review_is_obeyed_and_the_page_shows_clips(folder, tmp_path):
    clips.write(folder / "a.mp4")
    out = tmp_path / "out"
    run(folder, out, CONFIG)
    rows = slices(out)
    album = Album(out)
    view = album.view("a", [])
    assert [album.levels[piece["level"]] for piece in view["slices"]] == ["macro", "meso", "micro"]
    assert view["picture"].startswith("report/a%2Bphoto.webp?v=") and view["slices"][0]["frames"] == 17
    assert not any(piece["waiting"] for piece in view["slices"])
    large = LargePictures(out, folder).of("a.mp4", rows["micro"]["source_sha256"])
    assert large and Image.open(io.BytesIO(large)).size == clips.SIZE
    writer, box = Writer(out), rows["micro"]["box"]
    where = {"level": "micro", "place": key_of("micro", Box(*box)), "anchor": box}
    writer.add(rows["micro"]["source_sha256"], "a.mp4", **where, box=None)
    writer.close()
    run(folder, out, CONFIG)
    assert list(slices(out)) == ["macro", "meso"] and not list(out.glob("micro_*"))


def test_the_report_s_pictures_of_clips_move_and_each_card_has_its_own_levels(folder, tmp_path):
    clips.write(folder / "a.mp4")
    Image.fromarray(clips.picture(1, (640, 400))).save(folder / "p.png")
    labels = parse_labels(["long:17:128", "still:1:128"])
    run(folder, tmp_path / "out", replace(CONFIG, clips="temporal", clip_labels=labels))
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data["levels"] == ["macro", "meso", "micro", "long", "still"]
    shown = {photo["source"]: photo for photo in data["photos"]}
    assert shown["a.mp4"]["shows"] == [3, 4] and shown["p.png"]["shows"] == [0, 1, 2]
    for piece in shown["a.mp4"]["slices"]:
        with Image.open(tmp_path / "out" / piece["tile"]["picture"]) as strip:
            assert list(strip.size) == piece["tile"]["whole"] and strip.n_frames > 5
    assert [piece["frames"] for piece in shown["a.mp4"]["slices"]] == [17, 1]
    assert "groups of clips" in page and 'id="balance"' in page and ">groups<" in page
    (folder / "p.png").unlink()
    run(folder, tmp_path / "out", replace(CONFIG, clips="temporal", clip_labels=labels))
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "groups of clips" in page and 'id="balance"' not in page and ">groups<" not in page, "no counts of nothing"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clip_frames", "30"], "clip_frames 30: video models take 4n.1 frames from 5 on, use 29 or 33"),
        (["--clips", "time"], "clips 'time': use one of spatial, temporal, both, off"),
        (["--clip_labels", "clip"], "give at least two, long to short"),
        (["--clip_labels", "moment:9,clip:81"], "the finer one is longer; name them long to short"),
        (["--clip_labels", "clip,shot:x"], "write NAME:FRAMES:RESOLUTION, such as moment:9:512"),
        (["--clip_labels", "clip,shot:33:100"], "resolution 100, use a multiple of 64"),
        (["--clips", "temporal", "--clip_labels", "macro,frame"], "clip_labels macro: so are levels of photos called"),
        (["--clip_fps", "0"], "clip_fps 0: use frames a second from 1 to 120"),
        (["--clip_segments", "0"], "clip_segments 0: use 1 or more"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_the_remedy(folder, tmp_path, capsys, arguments, message):
    clips.write(folder / "a.mp4", 2)
    assert main([str(folder), str(tmp_path / "out"), *arguments]) == 2
    assert re.search(message, capsys.readouterr().err) and not (tmp_path / "out").exists()


def test_settings_of_clips_stand_in_a_file_and_come_back_from_the_one_that_a_run_leaves(folder, tmp_path):
    text = 'clips = "both"\nclip_fps = 24\nclip_frames = 17\nclip_shots = false\nclip_labels = ["a:33:128", "b:1"]\n'
    (tmp_path / "my.toml").write_text(text)
    config = load_config("", tmp_path / "my.toml")
    assert (config.clips, config.clip_fps, config.clip_frames) == ("both", 24.0, 17)
    assert [str(label) for label in config.clip_labels] == ["a:33:128", "b:1:768"]
    (tmp_path / "again.toml").write_text(to_toml(config))
    assert load_config("", tmp_path / "again.toml") == replace(config, redundant_iou=config.iou_thresholds)
    (tmp_path / "sub.toml").write_text('[overrides."x"]\nclip_fps = 24\n')
    with pytest.raises(SgaError, match="clip_fps is unknown: it is set once"):
        load_config("", tmp_path / "sub.toml")


def test_labels_in_time_without_a_delta_of_their_own_are_refused_by_training_and_the_run_says_what_to_give(
    folder, tmp_path, capsys
):
    with pytest.raises(SgaError, match="nobody has measured.*--sga_timestep_shift long:0,still:0"):
        SgaConfig(granularities=("long", "still"))
    clips.write(folder / "a.mp4")
    labels = ["--clips", "temporal", "--clip_labels", "long:17:128,still:1:128"]
    assert main([str(folder), str(tmp_path / "out"), *labels]) == 0
    assert "--sga_granularities long,still --sga_timestep_shift long:0,still:0\n" in capsys.readouterr().out
    Image.fromarray(clips.picture(1, (640, 400))).save(folder / "p.png")
    assert main([str(folder), str(tmp_path / "out"), *labels, "--resolution", "256"]) == 0
    assert "--sga_timestep_shift long:0,still:0,macro:0.5" in capsys.readouterr().out


def test_memory_does_not_grow_with_a_clip_s_length(folder, tmp_path):
    """Every frame that is decoded is let go of: counted, as a process's own figure rises and falls with the system."""
    held, most = weakref.WeakSet(), 0

    def counted(frame, shape):
        nonlocal most
        pixels = to_rgb(frame, shape).view(Watched)
        held.add(pixels)
        most = max(most, len(held))
        return pixels

    clips.write(folder / "a.mp4", 120)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "to_rgb", counted)
        patch.setattr(looking, "to_rgb", counted)
        labels = parse_labels(["long:113:128", "still:1:128"])
        run(folder, tmp_path / "out", replace(CONFIG, clips="both", clip_labels=labels))
    assert len(clips.read(next((tmp_path / "out").glob("long-macro_*/a.mp4")))) == 113
    assert 5 <= most <= 16, "key frames and one more, not 113"


class Watched(np.ndarray):
    """An array that can be told to be gone."""

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


def test_a_file_of_another_hand_in_a_clips_folder_is_never_overwritten(folder, tmp_path):
    clips.write(folder / "a.mp4")
    mine = tmp_path / "out" / "macro_128x64x17" / "a.mp4"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    result = run(folder, tmp_path / "out", CONFIG)
    assert mine.read_bytes() == b"mine" and "macro_128x64x17/a.mp4" in result.foreign
    assert Path(slices(tmp_path / "out")["macro"]["file"]).stem.startswith("a-x")
