"""sga_kohya.hsd: runs over the same OUT, after a kill, and with photos, settings or captions changed in between."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sga_kohya.hsd import Box, Detection, HsdConfig, LevelConfig, View, run
from sga_kohya.hsd import pipeline as pipeline_module
from sga_kohya.hsd.__main__ import main
from sga_kohya.hsd.detect import DETECTORS
from sga_kohya.hsd.detectors.heuristic import faces
from sga_kohya.hsd.detectors.heuristic.heads import Heads
from sga_kohya.hsd.out.ledger import JOURNAL, Ledger
from sga_kohya.hsd.out.manifest import MANIFEST
from tests.test_hsd_run import rows_of, snapshot

LEVEL_NAMES = ("macro", "meso", "micro")
LEVELS = (LevelConfig("macro", 256, tau_up=1.0), LevelConfig("micro", 256))
CONFIG = HsdConfig(LEVELS, min_size=128)


def picture(seed: int, width: int = 400, height: int = 300) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for i in range(6):
        picture(i).save(folder / ("sub" if i % 2 else ".") / f"p{i}.png")
    return folder


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """Grows by one for each photo that is decoded."""
    calls: list[int] = []
    decode = pipeline_module.decode_image
    monkeypatch.setattr(pipeline_module, "decode_image", lambda data: calls.append(len(data)) or decode(data))
    return calls


def slices(out: Path) -> dict[str, str]:
    """Everything that is trained on, and the manifest."""
    return {k: v for k, v in snapshot(out).items() if k.startswith("1_") or k.endswith(".jsonl")}


SLOW = """
import time
from sga_kohya.hsd import detect, pipeline
make = detect.DETECTORS["heuristic"]
def slow(options, photos):
    detector = make(options, photos)
    found = detector.detect
    detector.detect = lambda views, level: time.sleep(0.3) or found(views, level)
    return detector
detect.DETECTORS["heuristic"] = slow
pipeline.DETECTOR_BATCH = 1
"""
"""A process that can be killed between two photos."""
KILLED_RUN = f"""{SLOW}
import sys
from pathlib import Path
from sga_kohya.hsd import run
from tests.test_hsd_resume import CONFIG
run(Path(sys.argv[1]), Path(sys.argv[2]), CONFIG, workers=1)
"""


def test_after_a_kill_nothing_is_redone_or_lost(photos, tmp_path, decoded):
    fresh, out = tmp_path / "fresh", tmp_path / "out"
    run(photos, fresh, CONFIG)
    decoded.clear()
    process = subprocess.Popen([sys.executable, "-c", KILLED_RUN, photos, out], cwd=Path(__file__).parents[1])
    deadline = time.monotonic() + 60
    while len(list(out.glob("1_micro/*.txt"))) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    finished = [line for line in (out / JOURNAL).read_text().splitlines() if line.startswith("[")]
    assert 1 <= len(finished) < 6
    files = [row["file"] for line in finished for row in json.loads(line) if row["file"]]
    before = {file: (out / file).stat().st_mtime_ns for file in files}
    result = run(photos, out, CONFIG)
    assert len(decoded) == 6 - len(finished) and result.tally.reused == len(finished)
    assert {file: (out / file).stat().st_mtime_ns for file in files} == before
    assert slices(out) == slices(fresh)
    assert not (out / JOURNAL).exists() and not list(out.rglob("*.part"))


def test_a_second_run_decodes_nothing(photos, tmp_path, decoded):
    out = tmp_path / "out"
    first = run(photos, out, CONFIG)
    before = snapshot(out)
    assert (len(decoded), first.tally.reused) == (6, 0)
    second = run(photos, out, CONFIG)
    assert (len(decoded), second.tally.reused) == (6, 6)
    assert snapshot(out) == before
    assert (second.tally.levels, second.tally.group_sizes) == (first.tally.levels, first.tally.group_sizes)
    third = run(photos, out, replace(CONFIG, batch_size=4, device="cpu"))
    assert (len(decoded), third.tally.reused) == (6, 6), "no slice depends on these"


def test_only_what_changed_is_redone(photos, tmp_path, decoded):
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    run(photos, out, CONFIG)
    decoded.clear()
    picture(77).save(photos / "p0.png")
    (photos / "sub" / "p1.txt").write_text("a caption")
    (photos / "p2.png").unlink()
    picture(78).save(photos / "new.png")
    next((out / "1_micro").glob("p4.png")).unlink()
    result = run(photos, out, CONFIG)
    assert (len(decoded), result.tally.reused) == (4, 2), "changed, captioned, new, and one that has lost a slice"
    run(photos, fresh, CONFIG)
    assert slices(out) == slices(fresh) and "1_macro/p2.png" not in slices(out)
    assert (out / "1_micro" / "p1.txt").read_text() == "a caption\n"


@pytest.mark.parametrize(
    "change", [{"min_size": 192}, {"format": "jpg"}, {"caption": "words"}, {"duplicate_overlap": 0.3}]
)
def test_changed_settings_redo_everything(photos, tmp_path, decoded, change):
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    run(photos, out, CONFIG)
    decoded.clear()
    result = run(photos, out, replace(CONFIG, **change))
    assert (len(decoded), result.tally.reused) == (6, 0)
    run(photos, fresh, replace(CONFIG, **change))
    assert slices(out) == slices(fresh)


def test_a_changed_file_of_the_detector_redoes_everything(photos, tmp_path, decoded):
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "classes.txt").write_text("face\n")
    for i in range(6):
        (labels / f"p{i}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    config = replace(CONFIG, detector="boxes", detector_options={"annotations": str(labels)})
    out = tmp_path / "out"
    run(photos, out, config)
    (before,) = {tuple(row["box"]) for row in rows_of(out) if row["granularity"] == "micro"}
    run(photos, out, config)
    assert len(decoded) == 6
    (labels / "p0.txt").write_text("0 0.25 0.25 0.5 0.5 1.0\n")
    run(photos, out, config)
    assert len(decoded) == 12
    boxes = {row["root"]: tuple(row["box"]) for row in rows_of(out) if row["granularity"] == "micro"}
    assert boxes["p0"] != before and set(boxes.values()) == {boxes["p0"], before}


@pytest.mark.parametrize("detector", ["heuristic", "boxes,heuristic"])
def test_a_machine_that_finds_no_faces_does_not_take_over_what_one_cut_that_did(
    photos, tmp_path, decoded, monkeypatch, detector
):
    """OpenCV 5 has no cascades: by the same settings its slices are others, and it says so; see detect.means_of."""
    monkeypatch.setattr(faces, "Cascades", NoHeads)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "classes.txt").write_text("face\n")
    (tmp_path / "labels" / "p0.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    boxes = {"annotations": str(tmp_path / "labels")} if "boxes" in detector else {}
    config, out = replace(CONFIG, detector=detector, detector_options=boxes), tmp_path / "out"
    run(photos, out, config)
    assert run(photos, out, config).tally.reused == 6
    monkeypatch.setattr(NoHeads, "there", False)
    assert run(photos, out, config).tally.reused == 0
    assert (len(decoded), run(photos, out, config).tally.reused) == (12, 6)


class NoHeads:
    """Stands for the cascades, which some OpenCV has and another has not."""

    there = True

    @classmethod
    def available(cls) -> bool:
        return cls.there

    def heads(self, picture, pixels) -> Heads:
        return Heads()


def test_captions_edited_by_hand_stay_and_are_said(photos, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [str(photos), str(out), "--resolution", "256", "--min_detail", "0"]
    main([*arguments, "--caption", "one"])
    edited, other = out / "1_micro" / "p0.txt", out / "1_macro" / "p0.txt"
    edited.write_text("my own words\n")
    assert "were edited" not in capsys.readouterr().out
    for caption in ("one", "two", "three"):
        assert main([*arguments, "--caption", caption]) == 0
        assert "1 caption was edited here and stays that way, such as 1_micro/p0.txt" in capsys.readouterr().out
        assert (edited.read_text(), other.read_text()) == ("my own words\n", f"{caption}\n")
    (photos / "p0.png").unlink()
    made = list(out.rglob("p0[.+]*"))
    main([*arguments, "--caption", "three"])
    said = capsys.readouterr().out
    assert "1 file is made no more, but stays because of changes made here: 1_micro/p0.txt" in said
    assert f"removed  {len(made) - 1} files made before and made no more" in said
    assert edited.read_text() == "my own words\n" and not other.exists() and not edited.with_suffix(".png").exists()


def test_a_kill_between_two_captions_is_no_edit(photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run(photos, out, replace(CONFIG, caption="one"))

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("sga_kohya.hsd.saving.render", killed)
    with pytest.raises(KeyboardInterrupt):
        run(photos, out, replace(CONFIG, caption="two"))
    monkeypatch.undo()
    for caption in ("three", "two"):
        assert run(photos, out, replace(CONFIG, caption=caption)).edited == []
        assert {path.read_text() for path in out.glob("1_*/*.txt")} == {f"{caption}\n"}


def test_the_later_of_two_near_duplicates_is_left_out(photos, tmp_path, decoded):
    with Image.open(photos / "p0.png") as image:
        image.resize((320, 240)).save(photos / "sub" / "copy.jpg", quality=80)
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    result = run(photos, out, CONFIG)
    (row,) = (row for row in rows_of(out) if row["source"] == "sub/copy.jpg")
    assert row["file"] is None and row["reason"].startswith("near-duplicate: of p0.png, ")
    assert result.tally.lost == {"near-duplicate": 1} and not list(out.rglob("*copy*"))
    assert run(photos, out, CONFIG).tally.used == 6 and len(decoded) == 7
    # Its twin goes: it is a photo like any other.
    (photos / "p0.png").unlink()
    run(photos, out, CONFIG)
    assert len(decoded) == 8 and (out / "1_macro" / "copy.png").exists()
    run(photos, fresh, CONFIG)
    assert slices(out) == slices(fresh)
    picture(0).save(photos / "p0.png")
    run(photos, out, CONFIG)
    assert not list(out.glob("1_*/copy.*")) and (out / "1_macro" / "p0.png").exists()
    run(photos, out, replace(CONFIG, near_duplicates=-1))
    assert (out / "1_macro" / "copy.png").exists()


def test_a_photo_that_could_not_be_read_is_tried_again(photos, tmp_path):
    out = tmp_path / "out"
    whole = (photos / "p0.png").read_bytes()
    (photos / "p0.png").write_bytes(whole[: len(whole) // 2])
    assert run(photos, out, CONFIG).tally.lost == {"unreadable": 1}
    (photos / "p0.png").write_bytes(whole)
    assert run(photos, out, CONFIG).tally.used == 6


class Corner:
    """Finds the upper left quarter, in regions and photos alike."""

    name = "corner"

    def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
        return [[Detection(Box(0, 0, v.box.width // 2, v.box.height // 2), 1.0, level, "thing")] for v in views]


def test_sub_folders_with_settings_of_their_own(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(DETECTORS, "corner", lambda options, photos: Corner())
    own = replace(CONFIG, mode="split", detector="corner", levels=(LevelConfig("macro", 192, tau_up=1.5),) + LEVELS[1:])
    out = tmp_path / "out"
    run(photos, out, replace(CONFIG, overrides={"sub": own}))
    for row in rows_of(out):
        if row["granularity"] == "macro":
            below = row["source"].startswith("sub/")
            assert (row["detector"], row["label"]) == (("corner", "thing") if below else (None, ""))
            assert row["box"][2] <= 240 if below else row["box"][2] > 300
    assert "resolution = 256" in (out / "dataset.toml").read_text()
    assert "[overrides.sub]" in (out / "hsd_config.toml").read_text()


def test_every_file_is_hashed_once(photos, tmp_path, monkeypatch):
    hashed: Counter[bytes] = Counter()
    sha256 = hashlib.sha256
    monkeypatch.setattr(hashlib, "sha256", lambda data=b"": hashed.update([bytes(data)]) or sha256(data))
    run(photos, tmp_path / "out", CONFIG)
    pictures = [*photos.rglob("*.png"), *(tmp_path / "out").glob("*/*.png"), *(tmp_path / "out").glob("report/*.jpg")]
    assert len(pictures) > 20
    assert {hashed[picture.read_bytes()] for picture in pictures} == {1}


def test_every_file_s_hash_is_in_the_manifest(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out, CONFIG)
    files = snapshot(out)
    for row in rows_of(out):
        assert row["source_sha256"] == snapshot(photos)[row["source"]]
        if row["file"]:
            assert row["sha256"] == files[row["file"]] and row["bytes"] == (out / row["file"]).stat().st_size
            assert row["caption_sha256"] == files[row["file"].replace(".png", ".txt")]
            assert (row["upscaler"] == "lanczos") == row["upscaled"] and not row["super_resolved"]


def test_it_goes_on_with_its_own_settings_file(photos, tmp_path, decoded):
    out = tmp_path / "out"
    assert main([str(photos), str(out), "--resolution", "256", "--min_size", "128", "--tau_up", "3"]) == 0
    decoded.clear()
    assert main([str(photos), str(out), "--config", str(out / "hsd_config.toml")]) == 0
    assert decoded == []
    (out / "hsd_config.toml").write_text("mine = 1")
    assert main([str(photos), str(out)]) == 2 and (out / "hsd_config.toml").read_text() == "mine = 1"


def thumbnail(photo: Path, path: Path, width: int, height: int) -> None:
    with Image.open(photo) as image:
        image.resize((width, height), Image.Resampling.LANCZOS).save(path)


def reasons(out: Path) -> dict[str, str]:
    return {row["source"]: row["reason"] for row in rows_of(out) if row["granularity"] == "macro" and row["reason"]}


def test_of_near_duplicates_the_largest_stays(photos, tmp_path):
    thumbnail(photos / "p0.png", photos / "a_middle.png", 320, 240)
    thumbnail(photos / "p0.png", photos / "a_small.png", 160, 120)
    thumbnail(photos / "p0.png", photos / "z_large.png", 480, 360)
    out = tmp_path / "out"
    assert run(photos, out, CONFIG).tally.used == 6
    assert set(reasons(out)) == {"a_middle.png", "a_small.png", "p0.png"}
    assert all(reason.startswith("near-duplicate: of z_large.png, ") for reason in reasons(out).values())
    assert [row["source"] for row in rows_of(out)] == sorted(row["source"] for row in rows_of(out))


def test_a_photo_that_gives_nothing_makes_none_a_duplicate(photos, tmp_path, monkeypatch):
    class Choosy(Corner):
        def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
            found = super().detect(views, level)
            return [own if view.photo_size[0] < 500 else [] for view, own in zip(views, found, strict=True)]

    monkeypatch.setitem(DETECTORS, "choosy", lambda options, photos: Choosy())
    thumbnail(photos / "p0.png", photos / "a.png", 600, 450)
    out = tmp_path / "out"
    config = replace(CONFIG, mode="split", detector="choosy", levels=(LevelConfig("macro", 256, tau_up=2), LEVELS[1]))
    assert run(photos, out, config).tally.lost == {"no region": 1}
    assert set(reasons(out)) == {"a.png"} and (out / "1_macro" / "p0.png").exists()


def test_blank_pictures_are_no_duplicates_of_each_other(tmp_path):
    folder = tmp_path / "pages"
    folder.mkdir()
    for i, colour in enumerate(("white", "white", "black", (250, 250, 252))):
        Image.new("RGB", (400, 300), colour).save(folder / f"{i}.png")
    grain = np.random.default_rng(0).integers(252, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(grain).save(folder / "paper.jpg", quality=60)
    result = run(folder, tmp_path / "out", CONFIG)
    assert (result.tally.used, result.tally.lost) == (5, {})


def test_duplicates_do_not_depend_on_threads_batches_or_earlier_runs(photos, tmp_path, monkeypatch, decoded):
    for i in range(6):
        source = next(photos.rglob(f"p{i}.png"))
        thumbnail(source, photos / f"a{i}.png", 200 + 100 * i, 150 + 75 * i)
        thumbnail(source, photos / "sub" / f"z{i}.png", 320, 240)
    made = []
    for batch, workers in ((1, 1), (4, 5), (18, 2)):
        monkeypatch.setattr(pipeline_module, "DETECTOR_BATCH", batch)
        run(photos, tmp_path / f"out{batch}", CONFIG, workers=workers)
        made.append(slices(tmp_path / f"out{batch}"))
    assert made[0] == made[1] == made[2] and sum(reason is not None for reason in reasons(tmp_path / "out1")) == 12
    decoded.clear()
    monkeypatch.setattr(pipeline_module, "DETECTOR_BATCH", 4)
    run(photos, tmp_path / "out1", CONFIG)
    assert slices(tmp_path / "out1") == made[0] and decoded == []
    # In three steps: without the largest, with all, and after the smallest came first.
    out = tmp_path / "steps"
    away = {path: path.read_bytes() for path in photos.rglob("*.png") if path.name in ("p0.png", "a5.png", "z3.png")}
    for path in away:
        path.unlink()
    run(photos, out, CONFIG)
    for path, data in away.items():
        path.write_bytes(data)
        run(photos, out, CONFIG)
    assert slices(out) == made[0]


def test_what_cannot_be_opened_now_keeps_its_slices(photos, tmp_path, capsys):
    drive = tmp_path / "drive"
    drive.mkdir()
    (photos / "p0.png").rename(drive / "p0.png")
    (photos / "p0.png").symlink_to(drive / "p0.png")
    out = tmp_path / "out"
    arguments = [str(photos), str(out), "--resolution", "256", "--min_size", "128"]
    assert main(arguments) == 0
    before = slices(out)
    drive.rename(tmp_path / "unplugged")
    capsys.readouterr()
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "1 photo could not be opened now, what earlier runs made stays: p0.png" in said
    assert slices(out) == before


def test_a_folder_that_cannot_be_read_now_keeps_its_slices(photos, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    arguments = [str(photos), str(out), "--resolution", "256", "--min_size", "128"]
    assert main(arguments) == 0
    before = slices(out)
    scandir = os.scandir

    def refusing(path="."):
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    capsys.readouterr()
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "folder sub of PHOTOS cannot be read (Permission denied): nothing that came from it was touched" in said
    assert "3 photos could not be opened now, what earlier runs made stays: sub/p1.png, sub/p3.png" in said
    assert slices(out) == before
    # Also where its levels have gone from the settings, and where a new photo would take a name of theirs.
    picture(40).save(photos / "p1.jpg")
    assert main([*arguments, "--levels", "macro,micro"]) == 0
    files = {row["file"] for row in rows_of(out) if row["source"].startswith("sub/") and row["file"]}
    assert files == {file for file in before if Path(file).stem in ("p1", "p3", "p5") and file.endswith(".png")}
    assert all(slices(out)[file] == before[file] for file in files)
    monkeypatch.undo()
    capsys.readouterr()
    assert main(arguments) == 0 and "warning: folder" not in capsys.readouterr().out


def test_what_earlier_runs_made_is_known_and_neither_names_nor_rows_are_held(tmp_path):
    digests = {name: f"{i:064x}" for i, name in enumerate(("sha256", "caption_sha256", "strip_sha256", "view_sha256"))}
    row = {**digests, "granularity": "macro", "reason": None, "source_sha256": "0", "inputs": "0"}
    count = 2000
    with (tmp_path / MANIFEST).open("w") as file:
        for i in range(count):
            names = {"source": f"p{i:05}.jpg", "root": f"p{i:05}", "group": f"p{i:05}"}
            for level in ("macro", "meso", "micro"):
                file.write(json.dumps({**row, **names, "file": f"1_{level}/p{i:05}.png"}) + "\n")
    journal = [{"1_macro/p00001.txt": "new"}, {"1_macro/p00001.txt": "newer", "../p": "no"}, {"../../p": "no"}]
    (tmp_path / JOURNAL).write_text("".join(f"{json.dumps(entry)}\n" for entry in journal) + '{"1_macro/torn')
    tracemalloc.start()
    ledger = Ledger(tmp_path)
    held = tracemalloc.get_traced_memory()[0] / count
    tracemalloc.stop()
    assert held < 300, "bytes a photo: of its 8 files, the names and digests alone are a thousand"
    assert ledger.knows("1_micro/p01999.txt") and not ledger.knows("1_micro/p02000.txt") and not ledger.knows("../p")
    assert ledger.digests("1_micro/p01999.txt") == [digests["caption_sha256"]] and ledger.digests("other/p.txt") == []
    assert ledger.digests("1_macro/p00001.txt") == [digests["caption_sha256"], "new", "newer"]
    assert [row.file for row in ledger.rows("p00007.jpg")] == [f"1_{name}/p00007.png" for name in LEVEL_NAMES]
    for i in range(1, count):
        ledger.done(ledger.rows(f"p{i:05}.jpg"), journal=False)
    stale = sorted(f"1_{level}/p00000.{end}" for level in LEVEL_NAMES for end in ("png", "txt"))
    assert sorted(ledger.stale()) == [*stale, "report/p00000+photo.jpg", "report/p00000.jpg"]
    ledger.abandon()
