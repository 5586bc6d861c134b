"""sga_kohya.hsd: report.html and the preview, as a browser shows them."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.hsd import HsdConfig, LevelConfig, run
from sga_kohya.hsd.__main__ import main
from sga_kohya.hsd.out import report
from sga_kohya.hsd.out.manifest import Row
from sga_kohya.hsd.out.report import write_report
from sga_kohya.hsd.out.strips import GAP, TILE_HEIGHT, tile_width
from sga_kohya.hsd.out.tally import Tally
from sga_kohya.hsd.photos.finding import sample
from sga_kohya.kit.files import LOCK
from tests.pages import HOSTILE, HOSTILE_NAME, assert_stays_text
from tests.test_hsd_resume import CONFIG, LEVELS, photos, picture, slices
from tests.test_hsd_run import rows_of, snapshot

__all__ = ["photos"]

ODD_NAME = "<b>{{data}} & '\"#?% ü.png"


def data_of(page: Path) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL).group(1))


def opened(page: Path, profile: Path, *flags: str) -> str:
    """The page as Chromium has built it. Skips without Chromium; fails on any message on its console."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on the PATH: the page was not opened in a browser; apt-get install chromium")
    common = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    common += ["--disable-quic", "--disable-component-update", "--disable-sync", "--enable-logging=stderr"]
    command = [browser, *common, *flags, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and ":CONSOLE" not in done.stderr, done.stderr
    return done.stdout


def test_the_report_shows_every_group_and_every_discard(photos, tmp_path):
    picture(20).save(photos / ODD_NAME)
    Image.new("RGB", (50, 50), "red").save(photos / "tiny.png")
    (photos / "broken.png").write_bytes(b"nothing")
    out = tmp_path / "out"
    result = run(photos, out, CONFIG)
    rows, data = rows_of(out), data_of(out / "report.html")
    assert [[piece["file"] for piece in photo["slices"]] for photo in data["photos"]] == [
        [row["file"] for row in rows if row["source"] == source and row["file"]]
        for source in dict.fromkeys(row["source"] for row in rows if row["file"])
    ]
    found = {kind: [entry[0] for entry in entries] for kind, entries in data["discards"].items()}
    assert found["unreadable"] == ["broken.png"] and "tiny.png" in found["too small"]
    assert (
        sum(map(len, found.values())) == sum(row["file"] is None for row in rows) == sum(result.tally.reasons.values())
    )
    for photo in data["photos"]:
        tiles = [piece["tile"] for piece in photo["slices"]]
        with Image.open(out / tiles[0]["picture"]) as strip:
            widths = [tile_width(*piece["out"]) for piece in photo["slices"]]
            assert strip.size == (sum(widths) + GAP * (len(widths) - 1), TILE_HEIGHT) == tuple(tiles[0]["whole"])
        assert [tile["box"][2] - tile["box"][0] for tile in tiles] == widths and tiles[-1]["box"][2] == strip.width
        with Image.open(out / photo["picture"]) as whole:
            assert whole.size == tuple(photo["size"]), "no larger than the photo"
    assert (out / "report.html").stat().st_size < 60_000, "pictures are linked, not inlined"

    dom = opened(out / "report.html", tmp_path / "profile")
    sheet = dom[dom.index('<div id="photos">') :]
    assert sheet.count('class="photo card"') == 7
    assert sheet.count('class="crop"') == sum(row["file"] is not None for row in rows)
    assert sheet.count('class="box ') == sum(row["group"] is not None for row in rows)
    assert "&lt;b&gt;{{data}} &amp; '\"#?% ü.png" in sheet, "a name is text, never markup"
    assert sheet.count("<img ") == sheet.count('loading="lazy"') and "7 photos, page 1 of 1" in dom
    for link in re.findall(r'src="(report/[^"]+)"', sheet):
        assert (out / unquote(link)).is_file(), link
    assert dom[: dom.index('id="sheet"')].count("<summary>") == len(data["discards"])


def test_the_report_shows_captions_once_or_for_each_slice_and_marks_guesses(photos, tmp_path):
    (photos / "p0.txt").write_text("zoe, <b>garden</b>\nA second line.")
    (photos / "p2.txt").write_text("a cat")
    levels = (LEVELS[0], replace(LEVELS[1], caption_prefix="close-up, "))
    out = tmp_path / "out"
    run(photos, out, replace(CONFIG, levels=levels))
    shown = {
        photo["source"]: ([piece["caption"] for piece in photo["slices"]], photo.get("guessed", False))
        for photo in data_of(out / "report.html")["photos"]
    }
    assert shown["p0.png"] == (
        ["zoe, <b>garden</b>\nA second line.", "zoe, close-up, <b>garden</b>\nclose-up, a second line."],
        False,
    )
    assert shown["sub/p1.png"] == (["sub", "sub, close-up"], True)
    run(photos, out, CONFIG)
    (out / "1_macro" / "p2.txt").write_text("an edited cat")
    run(photos, out, CONFIG)
    (shown,) = [photo["slices"] for photo in data_of(out / "report.html")["photos"] if photo["root"] == "p2"]
    assert [piece["caption"] for piece in shown] == ["an edited cat", "a cat"], "what the trainer will read"
    dom = opened(out / "report.html", tmp_path / "profile")
    assert dom.count("zoe, &lt;b&gt;garden&lt;/b&gt;\nA second line.</p>") == 1, "once, as both slices have it"
    assert dom.count('class="caption guessed"') == 4 and "Photos without a caption" in dom
    assert "an edited cat</p>" in dom and "a cat</p>" in dom and "<tr><td>3</td><td>sub</td></tr>" in dom


def test_captions_levels_and_words_of_names_stay_text(photos, tmp_path):
    pages = []
    for name, words in ((HOSTILE_NAME, HOSTILE), ("harmless", "harmless")):
        folder, out = tmp_path / f"in-{len(name)}", tmp_path / f"out-{len(name)}"
        (folder / name).mkdir(parents=True)
        picture(1).save(folder / f"{name}.png")
        picture(2).save(folder / name / "guessed.png")
        (folder / f"{name}.txt").write_text(f"{words}\nAnother line, which is noted with the file's name.")
        Image.new("RGB", (50, 50)).save(folder / f"tiny {name}.png")
        run(folder, out, CONFIG)
        pages.append(out / "report.html")
    assert_stays_text(*pages, f"{HOSTILE_NAME}.png")
    data = data_of(pages[0])
    (photo,) = [photo for photo in data["photos"] if photo["source"] == f"{HOSTILE_NAME}.png"]
    assert HOSTILE in photo["slices"][0]["caption"]
    opened(pages[0], tmp_path / "profile")


def many_rows(groups: int) -> list[Row]:
    return [
        Row(
            file=f"1_{level}/p{i}.png",
            root=f"p{i}",
            group=f"p{i}",
            granularity=level,
            box=[0, 0, 256, 256],
            size=(256, 256),
            scale=1.0,
            source=f"p{i}.jpg",
            source_sha256="0",
            source_size=(400, 300),
            reason=None,
        )
        for i in range(groups)
        for level in ("macro", "micro")[: 1 + i % 2]
    ]


def test_thousands_of_photos_are_paged(tmp_path):
    rows = many_rows(5000)
    (tmp_path / "sga_manifest.jsonl").write_text("".join(row.to_json() + "\n" for row in rows))
    tally = Tally(["macro", "micro"])
    for i in range(5000):
        tally.add([row for row in rows[3 * (i // 2) : 3 * (i // 2) + 3] if row.root == f"p{i}"])
    assert tally.group_sizes == {1: 2500, 2: 2500}
    write_report(tmp_path, CONFIG, tally)
    dom = opened(tmp_path / "report.html", tmp_path / "profile", "--allow-file-access-from-files")
    assert "5000 photos, page 1 of 209" in dom and dom.count('class="photo card"') == 24
    assert (tmp_path / "report.html").stat().st_size < 5000 * 900
    assert re.search(r"<span>K = 2</span><i style=\"width:100\.00%\">.*?<span>2,500</span>", dom)


def test_more_photos_than_a_browser_holds_are_in_several_files(photos, tmp_path, monkeypatch):
    picture(20).save(photos / ODD_NAME)
    Image.new("RGB", (50, 50), "red").save(photos / "sub" / "tiny.png")
    out = tmp_path / "out"
    run(photos, out, CONFIG)
    whole, before = data_of(out / "report.html"), snapshot(out)
    monkeypatch.setattr(report, "PER_FILE", 3)
    run(photos, out, CONFIG)
    pages = [out / "report.html", out / "report_pages" / "2.html", out / "report_pages" / "3.html"]
    parts = [data_of(page) for page in pages]
    assert [len(part["photos"]) for part in parts] == [3, 3, 1]
    assert [photo for part in parts for photo in part["photos"]] == whole["photos"]
    assert [entry for part in parts for entry in part["discards"].get("too small", [])] == whole["discards"][
        "too small"
    ]
    dom = opened(pages[1], tmp_path / "profile")
    assert (
        "Photos 4 to 6 of 8, by name" in dom
        and '<a href="../report.html">1</a> <b>2</b> <a href="../report_pages/3.html">3' in dom
    )
    for link in re.findall(r'(?:src|href)="(\.\./[^"]+)"', dom):
        assert (out / "report_pages" / unquote(link)).is_file(), link
    assert dom.count('class="photo card"') == 3 and "Groups by K" not in dom
    assert "Groups by K" in pages[0].read_text() and "3 photos, page 1 of 1" in dom
    (out / "report_pages" / "mine.html").write_text("mine")
    monkeypatch.undo()
    run(photos, out, CONFIG)
    assert snapshot(out) == {**before, "report_pages/mine.html": snapshot(out)["report_pages/mine.html"]}
    (out / "report_pages" / "2.html").write_text("mine")
    with pytest.raises(SgaError, match="report_pages/2.html was not written by sga_kohya.hsd"):
        run(photos, out, CONFIG)


def test_an_empty_run_still_reports_why(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (50, 50)).save(tmp_path / "photos" / "small.png")
    assert main([str(tmp_path / "photos"), str(tmp_path / "out")]) == 2
    data = data_of(tmp_path / "out" / "report.html")
    assert data["photos"] == [] and [entry[0] for entry in data["discards"]["too small"]] == ["small.png"]


def test_a_preview_writes_only_its_report(photos, tmp_path, capsys):
    out, before = tmp_path / "out", snapshot(photos)
    arguments = [str(photos), str(out), "--resolution", "256", "--min_size", "128"]
    assert main([*arguments, "--preview", "3"]) == 0
    assert snapshot(photos) == before
    assert "3 found" in capsys.readouterr().out
    files = set(snapshot(out))
    names = ("report.html", "sga_manifest.jsonl", "hsd_config.toml", LOCK)
    # Sorted by path: p0 p2 p4 sub/p1 sub/p3 sub/p5.
    pictures = [f"report/{name}{of}.jpg" for name in ("p0", "p4", "p3") for of in ("", "+photo")]
    assert files == {f"preview/{name}" for name in (*names, *pictures)}
    page = (out / "preview" / "report.html").read_text()
    assert "Preview: 3 of 6 photos" in page and not data_of(out / "preview" / "report.html")["links"]
    assert main(arguments) == 0 and slices(out), "the preview is in nobody's way"
    assert main([*arguments, "--preview", "2"]) == 0
    assert len(list((out / "preview" / "report").iterdir())) == 4, "of each photo, and of its slices"
    shutil.rmtree(out / "preview")
    (out / "preview").mkdir()
    (out / "preview" / "mine.txt").touch()
    assert main([*arguments, "--preview", "2"]) == 2 and "is no earlier preview" in capsys.readouterr().err
    assert main([*arguments, "--preview", "0"]) == 2


def test_a_preview_inside_photos_is_no_photo(photos):
    out = photos / "out"
    main([str(photos), str(out), "--resolution", "256", "--min_size", "128", "--preview", "3"])
    assert run(photos, photos / "other", CONFIG).tally.photos == 6
    assert run(photos, out, CONFIG).tally.photos == 6


def test_sampling_is_even():
    assert sample(list("abcdefghij"), 5) == list("acegi")
    assert sample(list("abc"), 2) == ["a", "b"] and sample(list("abc"), 9) == sample(list("abc"), None) == list("abc")


def test_regions_of_one_photo_are_groups_with_one_root(photos, tmp_path, monkeypatch):
    from sga_kohya.hsd.detect import DETECTORS
    from tests.test_hsd_decompose import Parts

    monkeypatch.setitem(DETECTORS, "parts", lambda options, photos: Parts())
    for path in photos.rglob("*.png"):
        path.unlink()
    picture(3, 1200, 1000).save(photos / "two.png")
    levels = (LevelConfig("macro", 512, tau_up=1.0, max_slices=2), LevelConfig("meso", 512, caption_prefix="part of "))
    config = HsdConfig(levels, mode="split", detector="parts", caption="words")
    out = tmp_path / "out"
    result = run(photos, out, config)
    rows = rows_of(out)
    assert [(row["file"], row["root"], row["group"], row["parent"]) for row in rows if row["file"]] == [
        ("1_macro/two.png", "two", "two", None),
        ("1_meso/two.png", "two", "two", "1_macro/two.png"),
        ("1_macro/two-r2.png", "two", "two-r2", None),
        ("1_meso/two-r2.png", "two", "two-r2", "1_macro/two-r2.png"),
    ]
    assert result.tally.group_sizes == {2: 2} and result.tally.photos == 1
    assert (out / "1_meso" / "two-r2.txt").read_text() == "part of words\n"
    assert {path.name for path in (out / "report").iterdir()} == {"two.jpg", "two-r2.jpg", "two+photo.jpg"}
    run(photos, out, replace(config, levels=(replace(levels[0], max_slices=1), levels[1])))
    assert {path.name for path in out.rglob("two*")} == {"two.png", "two.txt", "two.jpg", "two+photo.jpg"}
    assert np.asarray(Image.open(out / "1_macro" / "two.png")).shape == (512, 512, 3)
