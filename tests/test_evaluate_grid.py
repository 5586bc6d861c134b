"""The progress grid: what both hosts name their samples, which picture stands where, and the page in a real browser."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.__main__ import main
from sga_kohya.evaluate.report.progress import evenly, find_blocks, in_words, write_grid

from .evaluate_browser import chromium
from .pages import HOSTILE_NAME, assert_stays_text


def colour(*numbers: int) -> tuple[int, int, int]:
    return tuple(40 + 53 * number % 200 for number in (*numbers, 0, 0)[:3])


def write_run(folder: Path, name: str, moments: list[str], prompts: int = 2, after: str = "_42.png") -> Path:
    """Samples in the order of `moments`, each of a colour of its own."""
    sample = folder / "sample"
    sample.mkdir(parents=True, exist_ok=True)
    for number, when in enumerate(moments):
        for prompt in range(prompts):
            path = sample / f"{name}_{when}_{prompt:02d}_{20260101000000 + number}{after}"
            Image.new("RGB", (64, 48), colour(number, prompt)).save(path)
    return folder


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("alpha-full_e000004_00_20260722093000_42.png", ("alpha-full", "e000004", 0)),
        ("alpha_000500_11_20260722093000.png", ("alpha", "000500", 11)),
        ("000000_00_20260722093000_42.png", ("run", "000000", 0)),  # without output_name
        ("z_e000010_01_20260722093000_1_000.png", ("z", "e000010", 1)),  # musubi-tuner
        ("wan_e000002_03_20260722093000_7.mp4", ("wan", "e000002", 3)),
        ("a_b_1000000_00_20260722093000_-1.png", ("a_b", "1000000", 0)),
    ],
)
def test_what_both_hosts_call_their_samples_is_read(tmp_path, file, expected):
    sample = tmp_path / "run" / "sample"
    sample.mkdir(parents=True)
    (sample / file).write_bytes(b"")
    (sample / "notes_20260722.png").write_bytes(b"")
    (block,) = find_blocks(tmp_path / "run")
    assert [(block.label, *key) for key in block.samples] == [expected]


def test_moments_stand_in_the_order_in_which_they_were_made_and_the_latest_sample_counts(tmp_path):
    run = write_run(tmp_path / "run", "full", ["000000", "e000002", "000050", "e000010"])
    again = run / "sample" / "full_e000002_00_20270101000000_42.png"
    Image.new("RGB", (64, 48), "red").save(again)
    (block,) = find_blocks(run)
    assert block.moments == ["000000", "e000002", "000050", "e000010"]
    assert block.samples["e000002", 0].path == again
    assert [in_words(when) for when in ("000050", "e000010")] == ["step 50", "epoch 10"]


def test_every_run_is_a_block_with_its_prompts_down_and_its_moments_across(tmp_path):
    long = write_run(tmp_path / "a", "full", [f"e{number:06d}" for number in range(15)], prompts=3)
    short = write_run(tmp_path / "b", "raw", ["000000", "e000045"], prompts=3, after="_7_000.png")
    (tmp_path / "prompts.txt").write_text("# mine\na cat --w 64\na dog\n")
    png, page = write_grid([long, short / "sample"], tmp_path / "out", 64, tmp_path / "prompts.txt")
    sheet = np.asarray(Image.open(png))
    found = {tuple(int(value) for value in pixel) for pixel in sheet.reshape(-1, 3)}
    for number in (0, 14):
        assert all(colour(number, prompt) in found for prompt in range(3)), "the first and the last moment are in it"
    assert Image.open(png).width <= 12 * (64 + 6) + 6
    text = page.read_text()
    assert "a cat" in text and "a cat --w" not in text and "prompt 3" in text and "epoch 45" in text
    assert evenly(list("abcdefgh"), 3) == ["a", "e", "h"] and evenly(["a"], 12) == ["a"]


def test_two_trainings_in_one_folder_are_two_blocks(tmp_path):
    write_run(tmp_path, "full", ["e000001"])
    write_run(tmp_path, "raw", ["e000001"])
    assert [block.label for block in find_blocks(tmp_path)] == ["full", "raw"]


def test_a_clip_stands_by_its_middle_frame(tmp_path):
    cv2 = pytest.importorskip("cv2")
    sample = tmp_path / "sample"
    sample.mkdir()
    clip = cv2.VideoWriter(
        str(sample / "wan_e000001_00_20260101000000.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 8, (64, 48)
    )
    for grey in (0, 0, 200, 0, 0):
        clip.write(np.full((48, 64, 3), grey, np.uint8))
    clip.release()
    png, _ = write_grid([tmp_path], tmp_path / "out", 64)
    middle = np.asarray(Image.open(png))[-55:-25, 20:50]
    assert 190 < middle.mean() < 210


def test_what_has_no_samples_is_told_how_to_have_some(tmp_path, capsys):
    assert main(["grid", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "set sample_prompts and sample_every_n_epochs" in capsys.readouterr().err
    with pytest.raises(SgaError, match="there is no such folder"):
        find_blocks(tmp_path / "nowhere")
    run = write_run(tmp_path / "run", "full", ["e000001"])
    with pytest.raises(SgaError, match="write 16 or more"):
        write_grid([run], tmp_path / "out", 3)
    (run / "sample" / "full_e000002_00_20260101000000.png").write_bytes(b"no picture")
    with pytest.raises(SgaError, match="cannot be read as an image"):
        write_grid([run], tmp_path / "out", 64)
    assert not (tmp_path / "out").exists()


def test_names_and_prompts_stay_text_on_the_page(tmp_path):
    pages = []
    for name, words in (("plain", "harmless"), (HOSTILE_NAME, HOSTILE_NAME)):
        out = tmp_path / f"run{len(pages)}"
        write_run(out, name, ["e000001"], prompts=1)
        (tmp_path / "prompts.txt").write_text(words)
        pages.append(write_grid([out], out / "grid", 64, tmp_path / "prompts.txt")[1])
    assert_stays_text(pages[1], pages[0], HOSTILE_NAME)


def test_one_steps_through_the_page_by_keys_slider_and_buttons(tmp_path):
    long = write_run(tmp_path / "a", "full", [f"e{number:06d}" for number in range(5)])
    short = write_run(tmp_path / "b", "raw", ["000000", "e000003", "e000006"], after="_7_000.png")
    _, page_file = write_grid([long, short], tmp_path / "out", 64)
    with chromium(tmp_path) as page:
        page.open(page_file.as_uri())
        shown = "[...document.querySelectorAll('section:first-of-type span[data-block]')].map(e => e.textContent)"
        assert page.run(shown) == ["epoch 4", "epoch 6"]
        last = page.run("document.querySelector('img').src")
        for _ in range(4):
            page.key("ArrowLeft")
        assert page.run(shown) == ["epoch 0", "step 0"] and page.run("document.querySelector('img').src") != last
        page.key("ArrowLeft")
        assert page.run("document.getElementById('where').textContent") == "1 / 5"
        page.click("#on")
        page.click("#on")
        assert page.run(shown) == ["epoch 2", "epoch 3"]
        for width, height in ((1280, 900), (390, 844)):
            page.size(width, height)
            assert page.run("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off at the side"
        assert not page.complaints
