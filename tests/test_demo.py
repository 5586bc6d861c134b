"""The demo by its command line, with --quick: it ends in a page that a browser opens, with numbers that agree."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sga_kohya.demo.report import CLAIMS

from . import demo_picture
from .evaluate_browser import chromium

SECTIONS = ("groups", "plan", "noise", "cosines", "loss", "samples", "limits", "study", "runs", "next")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """(path of report.html, what the demo printed)"""
    pytest.importorskip("skimage", reason="the demo takes its photos from scikit-image")
    out = tmp_path_factory.mktemp("demo") / "out"
    command = [sys.executable, "-m", "sga_kohya.demo", "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search(r"requires torchvision|cannot be saved", done.stderr), "what the toy has not is no news"
    return out / "report.html", done.stdout


def test_says_how_long_it_takes_before_it_begins(report):
    assert report[1].startswith("This takes ")


def test_says_where_the_report_is(report):
    path, output = report
    assert output.strip().endswith(str(path))


def test_page_is_complete_and_self_contained(report):
    page = report[0].read_text(encoding="utf-8")
    assert all(f'id="{name}"' in page for name in SECTIONS)
    fetched = re.findall(r"""(?:src|href)=["']([^"']{0,40})|url\(([^)]{0,40})""", page)
    assert fetched and all((a or b).startswith("data:") for a, b in fetched)


def test_numbers_agree(report):
    page = report[0].read_text(encoding="utf-8")
    facts = json.loads(re.search(r'id="facts">(.*?)</script>', page, re.DOTALL).group(1))
    small, control, sga = facts["small batches"], facts["equal batches"], facts["sga"]
    assert small["forward_passes"] == control["forward_passes"] == sga["forward_passes"] > 0
    assert sga["forward_passes"] % facts["slices"] == 0
    assert control["steps"] == control["model_calls"] == sga["steps"]
    assert sga["model_calls"] == small["model_calls"] == small["steps"] == 3 * sga["steps"]
    assert f"<td>{sga['forward_passes']:,}</td>" * 3 in page
    manifest = (report[0].parent / "slices" / "sga_manifest.jsonl").read_text().splitlines()
    assert facts["slices"] == sum(json.loads(line)["file"] is not None for line in manifest)


def test_headless_chromium_opens_it_without_complaint(report, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on the PATH: the page was not opened in a browser; apt-get install chromium")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-quic", "--disable-component-update", "--disable-sync", "--enable-logging=stderr"]
    command = [browser, *flags, f"--user-data-dir={tmp_path}", "--dump-dom", report[0].as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert ":CONSOLE" not in done.stderr
    assert all(f'<section id="{name}">' in done.stdout for name in SECTIONS)
    assert done.stdout.count("<svg") >= 6


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_of_it_is_wider_than_the_window(report, tmp_path, width):
    with chromium(tmp_path) as page:
        page.size(width, 800)
        page.open(report[0].as_uri())
        assert page.run("document.documentElement.scrollWidth") <= width


def test_the_readmes_picture_is_of_the_page_as_it_is(report, tmp_path):
    with chromium(tmp_path) as page:
        page.open(report[0].as_uri())
        assert demo_picture.layout(page) == demo_picture.taken_of(), f"take it anew: {demo_picture.__doc__}"


def test_its_verdicts_on_the_claims_are_the_readme_s():
    block = (Path(__file__).parents[1] / "README.md").read_text("utf-8").split("<!-- evidence:")[1].split("<!--")[0]
    assert dict(re.findall(r"^\| \d\. (.+?) \| \*\*(.+?)\*\* \|$", block, re.MULTILINE)) == CLAIMS


def test_refuses_a_folder_with_other_things(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    command = [sys.executable, "-m", "sga_kohya.demo", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "name an empty or new folder" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_captions_names_and_commands_stay_text(tmp_path):
    """A page of the demo without its trainings: only its words are of interest."""
    import torch
    from PIL import Image

    from sga_kohya.demo import report as demo
    from sga_kohya.demo.experiment import LEVELS, NOISE_LEVELS, Run
    from sga_kohya.hsd.out.manifest import Row
    from sga_kohya.reference.trainer import Spent
    from tests.pages import HOSTILE, HOSTILE_NAME, assert_stays_text

    def page(name: str, caption: str) -> str:
        out = tmp_path / str(len(caption))
        rows = [
            Row(
                file=f"1_{label}/{name}.png",
                root=name,
                group=name,
                granularity=label,
                size=(8, 8),
                scale=1.0,
                source=f"{name}.png",
                source_sha256="0",
                reason=None,
                box=(0, 0, 4, 4),
            )
            for label in LEVELS
        ]
        for file in (f"photos/{name}.png", *(f"slices/{row.file}" for row in rows)):
            (out / file).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(out / file)
        (out / "photos" / f"{name}.txt").write_text(caption, encoding="utf-8")
        losses = {(label, index): 1.0 for label in LEVELS for index in range(len(NOISE_LEVELS))}
        samples = {str(out / "slices" / str(row.file)): torch.zeros(3, 8, 8) for row in rows}
        runs = [Run(caption, caption, caption, Spent(steps=1), 1, {}, losses, losses, [], samples, []) for _ in "123"]
        return demo.page(demo.Facts(out, rows, caption, runs, seed=0, quick=True, started=0.0))

    assert_stays_text(page(HOSTILE_NAME, HOSTILE), page("harmless", "harmless"))
