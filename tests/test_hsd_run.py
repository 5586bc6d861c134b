"""sga_kohya.hsd: whole runs on files, as a user starts them."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toml
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.hsd import Box, HsdConfig, LevelConfig, run, saving
from sga_kohya.hsd import pipeline as pipeline_module
from sga_kohya.hsd.__main__ import main
from sga_kohya.hsd.out.ledger import JOURNAL

RESOLUTION = 512
CONFIG = HsdConfig(
    tuple(LevelConfig(name, RESOLUTION, tau_up=tau) for name, tau in (("macro", 1.0), ("meso", 2.0), ("micro", 4.0))),
    near_duplicates=-1,  # the photos here show one scene
)


def picture(width: int, height: int) -> Image.Image:
    """A grey gradient with a red square in the upper left quarter."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:] = np.linspace(60, 120, width).astype(np.uint8)[None, :, None]
    pixels[height // 8 : height // 3, width // 8 : width // 3] = (220, 30, 30)
    return Image.fromarray(pixels)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """One photo of every kind that has broken tools of this sort."""
    folder = tmp_path / "photos"
    for name in ("x", "y", "10_red square"):
        (folder / name).mkdir(parents=True)
    picture(900, 700).save(folder / "x" / "a.jpg")
    picture(700, 900).save(folder / "y" / "a.jpg")
    (folder / "x" / "a.txt").write_text("\n\n  a caption from x  \nand a second line\n", encoding="utf-8-sig")
    (folder / "y" / "a.txt").write_text("", encoding="utf-8")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(800, 400).save(folder / "turned.jpg", exif=exif, quality=98)
    rgba = picture(600, 600).convert("RGBA")
    rgba.paste((0, 0, 0, 0), (300, 0, 600, 600))
    rgba.save(folder / "clear.png")
    picture(640, 480).convert("L").save(folder / "grey.png")
    picture(640, 480).quantize(16).save(folder / "palette.gif")
    picture(640, 480).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.full((400, 400), 257 * 100, np.uint16)).save(folder / "deep.png")
    picture(640, 480).save(folder / "10_red square" / "IMG_0001.png")
    picture(100, 90).save(folder / "tiny.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 this is no photo")
    whole = (folder / "x" / "a.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    return folder


def rows_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "sga_manifest.jsonl").read_text(encoding="utf-8").split("\n") if line]


def snapshot(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_folder_of_awkward_photos(photos, tmp_path):
    out = tmp_path / "out"
    before = snapshot(photos)
    run(photos, out, CONFIG)
    assert snapshot(photos) == before
    rows = rows_of(out)
    kept = [row for row in rows if row["file"]]
    exported = {path.relative_to(out).as_posix() for path in out.glob("1_*/*.png")}
    assert exported == {row["file"] for row in kept}, "the manifest lists every file and no other"
    assert not list(out.rglob("*.part")) and not (out / JOURNAL).exists()

    macro_boxes = {row["file"]: Box(*row["box"]) for row in kept if row["granularity"] == "macro"}
    for row in kept:
        with Image.open(out / row["file"]) as image:
            assert image.mode == "RGB" and list(image.size) == row["size"]
        width, height = row["size"]
        assert width % 64 == height % 64 == 0 and min(width, height) >= 256
        assert width * height <= RESOLUTION**2
        assert (out / row["file"]).with_suffix(".txt").read_text(encoding="utf-8").strip()
        assert row["source_sha256"] == before[row["source"]]
        assert row["upscaled"] == (row["scale"] > 1) and row["scale"] <= 4
        if row["granularity"] != "macro":
            assert Box(*row["box"]).inside(macro_boxes[row["parent"]])
            assert row["detector"] == "heuristic" and 0 < row["score"] <= 1
    assert {row["granularity"] for row in kept} == {"macro", "meso", "micro"}

    skipped = {row["source"]: row["reason"] for row in rows if row["granularity"] == "macro" and not row["file"]}
    assert set(skipped) == {"tiny.png", "broken.jpg", "truncated.jpg"}
    assert "100x90" in skipped["tiny.png"] and "256x256" in skipped["tiny.png"]
    assert skipped["broken.jpg"].startswith("unreadable: ") and "truncated" in skipped["truncated.jpg"]


def test_pixels_survive_the_conversions(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out, CONFIG)

    def macro(name: str) -> np.ndarray:
        return np.asarray(Image.open(out / "1_macro" / f"{name}.png")).astype(int)

    turned = macro("turned")
    assert turned.shape[0] > turned.shape[1], "orientation 6 makes a landscape file a portrait photo"
    red = turned[..., 0] - turned[..., 1] > 100
    assert red[: red.shape[0] // 2, red.shape[1] // 2 :].sum() > 0.95 * red.sum() > 0, "upper left, turned clockwise"
    assert macro("clear")[10, -10].tolist() == [255, 255, 255], "transparent black lies on white"
    assert abs(macro("deep") - 100).max() <= 1, "16 bits are scaled, not clipped to white"
    for name in ("palette", "cmyk"):
        height, width = macro(name).shape[:2]
        r, g, _ = macro(name)[height // 5, width // 5]
        assert r > 150 and g < 90, name


def test_captions(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out, CONFIG)
    captions = {path.stem: path.read_text(encoding="utf-8") for path in (out / "1_macro").glob("*.txt")}
    assert captions["a"] == "a caption from x\nand a second line\n"
    assert captions["IMG_0001"] == "red square\n"
    assert captions["turned"] == "turned\n"
    assert captions["y-a"] == "photos\n", "an empty caption file and names without words: the folder's name"
    run(photos, out, replace(CONFIG, caption="my style"))
    assert (out / "1_macro" / "y-a.txt").read_text() == "my style\n"
    assert (out / "1_macro" / "a.txt").read_text() == "a caption from x\nand a second line\n"


def test_siblings_share_group_and_stem(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out, CONFIG)
    for row in rows_of(out):
        if row["file"]:
            folder, name = row["file"].split("/")
            assert folder == f"1_{row['granularity']}"
            assert Path(name).stem == row["group"] == row["root"]


def test_a_rerun_changes_nothing_whatever_the_threads_do(photos, tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    run(photos, first, CONFIG, workers=1)
    monkeypatch.setattr(pipeline_module, "DETECTOR_BATCH", 3)
    run(photos, second, CONFIG, workers=5)
    one, two = snapshot(first), snapshot(second)
    for name in ("dataset.toml", "dataset_musubi.toml", "dataset_raw.toml", "dataset_musubi_raw.toml"):
        assert one.pop(name) != two.pop(name), "it holds the absolute path"
    assert one == two
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*.png")}
    run(photos, first, CONFIG)
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*.png")} == before
    assert {k: v for k, v in snapshot(first).items() if not k.startswith("dataset")} == one


def test_a_rerun_removes_what_is_stale_and_nothing_else(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out, CONFIG)
    mine = [out / "1_macro" / name for name in ("note.md", "a_portrait.png", "a_portrait_0512x0512_flux.npz", "b.npz")]
    for path in mine:
        path.write_bytes(b"mine")
    fresh = [out / "1_macro" / name for name in ("grey_0576x0448_flux.npz", "grey_flux_te.npz")]
    stale = [out / "1_macro" / name for name in ("a_0512x0512_flux.npz", "a.npz", "turned_0256x0512_flux.npz")]
    for path in fresh + stale:
        path.write_bytes(b"cache")
    picture(900, 720).save(photos / "x" / "a.jpg")
    (photos / "turned.jpg").unlink()
    result = run(photos, out, CONFIG)
    assert all(path.read_bytes() == b"mine" for path in mine)
    assert all(path.exists() for path in fresh), "unchanged files keep their caches"
    assert not any(path.exists() for path in stale), "caches of changed and of vanished files go"
    assert not list(out.rglob("turned.*"))
    assert "1_macro/a_portrait.png" in result.foreign
    run(photos, out, replace(CONFIG, format="jpg"))
    assert {path.name for path in out.rglob("*.png")} == {"a_portrait.png"}
    assert (out / "1_macro" / "grey.jpg").exists()


def test_files_of_others_are_never_overwritten(photos, tmp_path):
    out = tmp_path / "out"
    (out / "1_macro").mkdir(parents=True)
    mine = [out / "1_macro" / name for name in ("grey.png", "Clear.txt")]
    for path in mine:
        path.write_bytes(b"mine")
    run(photos, out, CONFIG)
    assert all(path.read_bytes() == b"mine" for path in mine)
    roots = {row["source"]: row["root"] for row in rows_of(out) if row["file"]}
    assert roots["grey.png"].startswith("grey-x") and roots["clear.png"].startswith("clear-x")
    (out / "dataset.toml").write_text("[general]\n")
    with pytest.raises(SgaError, match=r"dataset\.toml was not written by"):
        run(photos, out, CONFIG)


def test_a_manifest_cannot_make_it_delete_elsewhere(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out, CONFIG)
    victim = tmp_path / "victim.png"
    victim.write_bytes(b"mine")
    with (out / "sga_manifest.jsonl").open("a", encoding="utf-8") as manifest:
        for file in ("../victim.png", str(victim), "1_macro/../../victim.png"):
            digest = hashlib.sha256(b"mine").hexdigest()
            manifest.write(json.dumps({"file": file, "source": "x", "inputs": "", "sha256": digest}) + "\n")
    run(photos, out, CONFIG)
    assert victim.exists()


def test_out_inside_photos_is_not_read_again(photos):
    out = photos / "out"
    (out / "1_macro").mkdir(parents=True)
    picture(640, 480).save(out / "1_macro" / "from_a_killed_run.png")
    run(photos, out, CONFIG)
    assert not any(row["source"].startswith("out/") for row in rows_of(out))
    sources = {row["source"] for row in rows_of(out)}
    run(photos, out, CONFIG)
    run(photos, photos / "other", CONFIG)
    assert {row["source"] for row in rows_of(out)} == sources == {row["source"] for row in rows_of(photos / "other")}


def test_an_interrupted_run_leaves_whole_files_and_the_next_one_knows_them(photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    render, count, lock = saving.render, [0], threading.Lock()

    def interrupting(*args):
        with lock:
            count[0] += 1
            if count[0] == 6:
                raise KeyboardInterrupt
        return render(*args)

    monkeypatch.setattr(saving, "render", interrupting)
    with pytest.raises(KeyboardInterrupt):
        run(photos, out, CONFIG, workers=2)
    written = list(out.rglob("*.png"))
    assert written and (out / JOURNAL).exists() and not list(out.rglob("*.part"))
    for path in written:
        with Image.open(path) as image:
            image.load()
    monkeypatch.undo()
    (out / "1_macro" / f"{written[0].stem}.png.part").write_bytes(b"half a file")
    result = run(photos, out, replace(CONFIG, format="jpg"))
    assert not list(out.rglob("*.png")), "the files of the interrupted run were its own"
    assert result.foreign == [] and not list(out.rglob("*.part"))


def test_dataset_toml_quotes_paths_and_leaves_empty_levels_out(photos, tmp_path):
    out = tmp_path / 'odd "name" \\ with # ünïcode'
    levels = (*CONFIG.levels[:2], LevelConfig("micro", 1024, ((1024, 1024),), tau_up=1.0, repeats=3))
    run(photos, out, HsdConfig(levels, batch_size=2, near_duplicates=-1))
    text = (out / "dataset.toml").read_text(encoding="utf-8")
    (dataset,) = toml.loads(text)["datasets"]
    assert (dataset["resolution"], dataset["batch_size"], dataset["bucket_no_upscale"]) == (1024, 2, True)
    assert dataset["min_bucket_reso"] <= dataset["resolution"] <= dataset["max_bucket_reso"]
    assert [Path(subset["image_dir"]) for subset in dataset["subsets"]] == [out / "1_macro", out / "1_meso"]
    assert [subset["custom_attributes"] for subset in dataset["subsets"]] == [
        {"granularity": g} for g in ("macro", "meso")
    ]
    assert "# No micro slices" in text and not (out / "3_micro").exists()
    assert "{" not in text, "an inline table cannot be pickled by data loader workers"


@pytest.mark.parametrize("extension", ["jpg", "webp"])
def test_other_formats(photos, tmp_path, extension):
    run(photos, tmp_path / "out", replace(CONFIG, format=extension))
    with Image.open(tmp_path / "out" / "1_macro" / f"grey.{extension}") as image:
        assert image.format == {"jpg": "JPEG", "webp": "WEBP"}[extension]


def test_the_command_line_reports(photos, tmp_path, capsys):
    arguments = [str(photos), str(tmp_path / "out"), "--tau_up", "1", "--near_duplicates", "-1", "--min_detail", "0"]
    assert main(arguments) == 0
    report = capsys.readouterr().out
    assert "12 found, 9 used, 3 skipped" in report
    assert "2 photos were skipped, unreadable: broken.jpg (" in report
    assert "1 photo was skipped, too small: tiny.png (100x90 takes" in report
    assert "1 photo, transparency laid on white: clear.png" in report
    assert "meso slices are below half of resolution 1024: more than 1x upscale would only blur" in report
    assert f"--dataset_config {tmp_path / 'out' / 'dataset.toml'}" in report


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{photos}/nowhere", "{out}"], "nowhere: give the folder"),
        (["{empty}", "{out}"], "no images in"),
        (["{photos}", "{photos}"], "choose another OUT"),
        (["{photos}", "{photos}-\udce9"], "the name is not UTF-8"),
        (["{photos}", "{out}", "--resolution", "1000"], "resolution 1000 of level macro: use a multiple of 64"),
        (["{photos}", "{out}", "--levels", "macro,micro:big"], "'big' is no resolution"),
        (["{photos}", "{out}", "--detector", "magic"], "detector 'magic': known are boxes"),
        (["{photos}", "{out}", "--iou", "meso-micro"], "such as meso/micro=0.7"),
        (["{photos}", "{out}", "--caption", "zo\udce9"], "caption 'zo\\udce9': not UTF-8"),
        (["{photos}", "{out}", "--workers", "0"], "--workers 0: use 1 or more"),
    ],
)
def test_mistakes_end_in_one_line(photos, tmp_path, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    names = {"photos": photos, "out": tmp_path / "out", "empty": tmp_path / "empty"}
    assert main([argument.format(**names) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("sga_kohya.hsd: error: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def captioned(folder: Path, captions: dict[str, bytes]) -> Path:
    """A photo for each name, in its sub-folder if it has one, with that caption file beside it."""
    for number, (name, caption) in enumerate(captions.items()):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(600 + 8 * number, 500).save(path)
        if caption:
            path.with_suffix(".txt").write_bytes(caption)
    return folder


def test_a_caption_of_unknown_encoding_is_named_and_its_photo_left_out(tmp_path, capsys):
    """It became U+FFFD and NULs in valid UTF-8, which no trainer notices."""
    photos = captioned(
        tmp_path / "photos",
        {
            "ansi": "zoé in a café".encode("cp1252"),
            "shift_jis": "猫と靴".encode("cp932"),
            "wide": "zoe".encode("utf-16-le"),
            "marked": "zoé, 猫".encode("utf-16"),
            "plain": "zoé, 猫".encode(),
        },
    )
    out = tmp_path / "out"
    assert main([str(photos), str(out), "--resolution", "512", "--near_duplicates", "-1"]) == 0
    report = capsys.readouterr().out
    assert "5 found, 2 used, 3 skipped" in report
    assert (
        "3 photos were skipped, unreadable caption: ansi.png (ansi.txt not UTF-8: byte 0xe9 at 2), shift_jis" in report
    )
    assert "save these captions as UTF-8, and run it again" in report
    written = {path.stem: path.read_text(encoding="utf-8") for path in (out / "1_macro").glob("*.txt")}
    assert written == dict.fromkeys(("marked", "plain"), "zoé, 猫\n")
    lost = [row for row in rows_of(out) if not row["file"] and row["reason"].startswith("unreadable caption: ")]
    assert [row["source"] for row in lost] == ["ansi.png", "shift_jis.png", "wide.png"]
    (photos / "ansi.txt").write_text("zoé in a café", encoding="utf-8")
    assert run(photos, out, CONFIG).tally.used == 3
    assert (out / "1_macro" / "ansi.txt").read_text(encoding="utf-8") == "zoé in a café\n"


def test_nothing_but_captions_of_unknown_encoding_ends_in_an_error(tmp_path, capsys):
    photos = captioned(tmp_path / "photos", {"ansi": "zoé".encode("cp1252")})
    assert main([str(photos), str(tmp_path / "out"), "--resolution", "512"]) == 2
    printed = capsys.readouterr()
    assert "ansi.txt not UTF-8" in printed.out and "no photo could be used" in printed.err


def test_photos_that_train_on_words_of_a_name_are_counted_with_the_words(tmp_path, capsys):
    names = {"10_p3rs0n man/IMG_1": b"", "10_p3rs0n man/IMG_2": b"", "5_猫/IMG_3": b" \n", "x/red hat": b"a caption"}
    photos = captioned(tmp_path / "photos", names)
    arguments = [str(photos), str(tmp_path / "out"), "--resolution", "512", "--near_duplicates", "-1"]
    assert main(arguments) == 0
    told = '3 of 4 photos have no caption and train on words of their folder or file name: "p3rs0n man" (2), "猫" (1). '
    assert told + "Give --caption TEXT" in capsys.readouterr().out
    assert main(arguments) == 0 and told in capsys.readouterr().out, "of finished photos, too"
    assert main([*arguments, "--caption", "my style"]) == 0 and "have no caption" not in capsys.readouterr().out


def test_several_lines_are_kept_and_said(tmp_path, capsys):
    photos = captioned(tmp_path / "photos", {"two": b"zoe, garden\r\n\r\nA woman in a garden.\r\n", "one": b"zoe"})
    assert main([str(photos), str(tmp_path / "out"), "--resolution", "512", "--near_duplicates", "-1"]) == 0
    assert "1 photo, caption of several lines: sd-scripts reads the first" in capsys.readouterr().out
    written = (tmp_path / "out" / "1_macro" / "two.txt").read_bytes()
    assert written == b"zoe, garden\nA woman in a garden.\n"


@pytest.mark.skipif(sys.platform == "win32", reason="such names cannot exist there")
def test_a_file_s_name_cannot_forge_a_line_of_the_report(tmp_path, capsys):
    evil = "a\nphotos   9 found\x1b[2K\u202egnp"
    photos = captioned(tmp_path / "photos", {evil: b"zoe \xe9", f"{evil}/b": b"", "c\r\x1b]0;x\x07": b"a\nb"})
    assert main([str(photos), str(tmp_path / "out"), "--resolution", "512", "--near_duplicates", "-1"]) == 0
    printed = "".join(capsys.readouterr())
    assert "\n".join(line for line in printed.split("\n") if line.startswith("photos ")).count("found") == 1
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for text in (printed.replace("\r  ", ""), page):
        assert not set(text) & set("\x1b\u202e\x07")
    assert "a\\nphotos   9 found\\x1b[2K\\u202egnp.png" in printed
    (tmp_path / "out" / "1_macro" / "mine\nwarning: \x1b[1m.png").touch()
    assert main([str(photos), str(tmp_path / "out"), "--resolution", "512", "--near_duplicates", "-1"]) == 0
    assert "1_macro/mine\\nwarning: \\x1b[1m.png: move such away" in capsys.readouterr().out
    assert main([str(photos), str(photos / evil / "b.png")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_only_unusable_photos(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    picture(50, 50).save(tmp_path / "photos" / "small.png")
    assert main([str(tmp_path / "photos"), str(tmp_path / "out")]) == 2
    assert "no photo could be used" in capsys.readouterr().err
    assert not (tmp_path / "out" / "dataset.toml").exists()


def test_it_runs_as_a_module_without_torch(photos, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None; import runpy; runpy.run_module('sga_kohya.hsd', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, str(photos), str(tmp_path / "out"), "--resolution", "512"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], env={**os.environ})
    assert done.returncode == 0, done.stderr
    assert "accelerate launch -m sga_kohya.flux_train_network" in done.stdout


def test_every_suffix_that_pillow_reads_is_read_and_the_rest_is_named(photos, tmp_path, capsys):
    folder = tmp_path / "odd"
    (folder / "sub").mkdir(parents=True)
    formats = {".jfif": "JPEG", ".JPE": "JPEG", ".jp2": "JPEG2000", ".tga": "TGA", ".ppm": "PPM", ".pcx": "PCX"}
    for i, (suffix, name) in enumerate(formats.items()):
        picture(640, 480 + 64 * i).save(folder / f"p{i}{suffix}", name)
    for name in ("a.CR2", "sub/b.nef", "c.mp4", "d.xcf", "e", "p0.txt", "p0.npz", ".hidden.mp4", "Thumbs.db"):
        (folder / name).write_bytes(b"words")
    (folder / "linked").symlink_to(photos, target_is_directory=True)
    assert (
        main(
            [
                str(folder),
                str(tmp_path / "out"),
                "--resolution",
                "512",
                "--near_duplicates",
                "-1",
                "--caption",
                "x",
                "--min_detail",
                "0",
                "--clips",
                "off",
            ]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "6 found, 6 used, 0 skipped" in said
    for words in (
        "warning: 2 raw files are not read: a.CR2, sub/b.nef; export such as JPEG or TIFF",
        "warning: 1 clip is passed over, as clips = off says: c.mp4",
        "warning: 1 file is no picture that can be read (.xcf): d.xcf",
        "warning: 1 file is no picture that can be read (no suffix): e",
        "warning: 1 folder is a link and not followed: linked; give such as PHOTOS",
    ):
        assert words in said
    assert said.count("warning: ") == 5


def test_a_folder_that_cannot_be_read_at_all_is_an_error(tmp_path, capsys, monkeypatch):
    def refusing(path="."):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refusing)
    assert main([str(tmp_path), str(tmp_path / "out")]) == 2
    assert "Permission denied" in capsys.readouterr().err


def test_a_strip_is_used_whole_and_what_squares_leave_unused_is_said(tmp_path, capsys):
    (tmp_path / "strips").mkdir()
    picture(350, 4500).save(tmp_path / "strips" / "webtoon.png")
    picture(900, 480).save(tmp_path / "strips" / "wide.png")
    plain = [str(tmp_path / "strips"), "--near_duplicates", "-1", "--min_detail", "0"]
    assert main([*plain, str(tmp_path / "out"), "--resolution", "512"]) == 0
    assert "unused" not in capsys.readouterr().out
    rows = [row for row in rows_of(tmp_path / "out") if row["root"] == "webtoon" and row["granularity"] == "macro"]
    assert len({row["group"] for row in rows}) == 9
    assert sum(row["box"][3] - row["box"][1] for row in rows) > 0.9 * 4500
    assert main([*plain, str(tmp_path / "squares"), "--resolution", "256", "--min_size", "256"]) == 0
    said = capsys.readouterr().out
    assert "photos are too long for any size, which leaves much unused: " in said
    assert "wide.png (900x480, 53% used)" in said
    assert "--mode split makes several regions of a photo" in said
    assert "every slice of macro, meso, micro is cut to a square" in said
