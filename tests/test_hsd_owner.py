"""sga_kohya.hsd: what is whose. Nothing that a user wrote or changed is deleted or overwritten; one writer an OUT."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sga_kohya.errors import SgaError
from sga_kohya.hsd import run
from sga_kohya.hsd.__main__ import main
from sga_kohya.hsd.out.ledger import JOURNAL
from sga_kohya.hsd.preview import preview
from sga_kohya.kit.files import LOCK, only_writer
from tests.test_hsd_resume import CONFIG, KILLED_RUN, photos, picture
from tests.test_hsd_run import rows_of, snapshot

__all__ = ["photos"]
ASIDE = ("sga_manifest.edited.jsonl", "dataset.edited.toml")
MANIFEST = "sga_manifest.jsonl"


def own_dataset(folder: Path) -> Path:
    """A data set of the user's, with a manifest as the README describes it."""
    (folder / "1_macro").mkdir(parents=True)
    for name in ("a", "b"):
        picture(1).save(folder / "1_macro" / f"{name}.png")
        (folder / "1_macro" / f"{name}.txt").write_text("mine")
    rows = [{"file": f"1_macro/{name}.png", "group": name, "granularity": "macro"} for name in ("a", "b")]
    (folder / MANIFEST).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_manifest_of_another_hand_is_refused_and_nothing_is_touched(photos, tmp_path, capsys):
    out = own_dataset(tmp_path / "mine")
    before = snapshot(out)
    assert main([str(photos), str(out)]) == 2
    error = capsys.readouterr().err
    assert f"{MANIFEST}, line 1: not a row of sga_kohya.hsd" in error and error.count("\n") == 1
    assert {**snapshot(out), LOCK: ""} == {**before, LOCK: ""}


@pytest.mark.parametrize(
    "line",
    ['{"file": "1_macro/p0.png"}', "no json", "[" * 100_000, "3", '{"source": 1, "inputs": 2}', '{"source": "a"}'],
)
def test_one_line_of_another_hand_is_enough(photos, tmp_path, line):
    out = tmp_path / "out"
    run(photos, out, CONFIG)
    before = set(snapshot(out))
    with (out / MANIFEST).open("a") as manifest:
        manifest.write(f"\n{line}\n")
    with pytest.raises(SgaError, match=r"not a row of sga_kohya\.hsd"):
        run(photos, out, CONFIG)
    assert set(snapshot(out)) == before


def test_what_was_changed_since_is_not_removed(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out, CONFIG)
    for name in ("p0", "p2"):
        (out / "1_macro" / f"{name}_flux.npz").write_bytes(b"cache")
        (photos / f"{name}.png").unlink()
    picture(50).save(out / "1_macro" / "p0.png")
    (out / "report" / "p2.jpg").write_bytes(b"mine")
    made = [path for path in (*out.rglob("p[02].*"), *out.rglob("p[02]+*")) if path.suffix != ".npz"]
    result = run(photos, out, CONFIG)
    assert result.swept.left == ["1_macro/p0.png", "1_macro/p0.txt", "report/p2.jpg"], "a slice stays with its caption"
    assert result.swept.removed == len(made) - 3
    assert {path.name for path in (*out.rglob("p0*"), *out.rglob("p2*"))} == {
        "p0.png",
        "p0.txt",
        "p0_flux.npz",
        "p2.jpg",
    }
    again = run(photos, out, CONFIG)
    assert again.swept.removed == 0 and "1_macro/p0.png" in again.foreign and len(list(out.rglob("p0.*"))) == 2


def test_a_slice_edited_by_hand_is_not_overwritten_and_is_said(photos, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [str(photos), str(out), "--resolution", "256", "--min_size", "128"]
    main(arguments)
    edited = out / "1_macro" / "p0.png"
    picture(60).save(edited)
    mine = edited.read_bytes()
    (out / "1_macro" / "p2.png").write_bytes(b"")
    for tau in ("2", "3"):
        assert main([*arguments, "--tau_up", tau]) == 0
        assert edited.read_bytes() == mine
        assert "1 slice was edited here and stays that way, such as 1_macro/p0.png" in capsys.readouterr().out
        assert (out / "1_macro" / "p2.png").stat().st_size, "an empty file is nobody's work"
    assert main([*arguments, "--tau_up", "3"]) == 0 and "6 were finished before" in capsys.readouterr().out


def test_a_cache_that_may_be_of_one_s_own_image_stays(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out, CONFIG)
    picture(70).save(out / "1_macro" / "p0.webp")
    cache = out / "1_macro" / "p0_0256x0192_flux.npz"
    cache.write_bytes(b"cache")
    (photos / "p0.png").unlink()
    run(photos, out, CONFIG)
    assert cache.exists() and not (out / "1_macro" / "p0.png").exists()


@pytest.mark.parametrize("name", ["dataset.toml", "hsd_config.toml"])
def test_settings_edited_by_hand_are_set_aside(photos, tmp_path, capsys, name):
    out = tmp_path / "out"
    arguments = [str(photos), str(out), "--resolution", "256", "--min_size", "128"]
    main(arguments)
    fresh = (out / name).read_text()
    main(arguments)
    assert "edited by hand" not in capsys.readouterr().out
    (out / name).write_text(fresh + "# my own line\n")
    main(arguments)
    stem = name.removesuffix(".toml")
    aside = out / f"{stem}.edited.toml"
    assert f"settings that were edited by hand are in {aside} now" in capsys.readouterr().out
    assert (out / name).read_text() == fresh and aside.read_text() == fresh + "# my own line\n"
    (out / name).write_text(fresh + "# another\n")
    main(arguments)
    assert aside.read_text().endswith("line\n") and (out / f"{stem}.edited-2.toml").read_text().endswith("# another\n")


def test_a_report_of_another_hand_is_neither_replaced_nor_its_pictures(photos, tmp_path):
    out = tmp_path / "out"
    (out / "report").mkdir(parents=True)
    (out / "report" / "p0.jpg").write_bytes(b"mine")
    run(photos, out, CONFIG)
    assert (out / "report" / "p0.jpg").read_bytes() == b"mine"
    assert {row["root"] for row in rows_of(out) if row["source"] == "p0.png"} != {"p0"}
    (out / "report.html").write_text("<h1>mine</h1>")
    with pytest.raises(SgaError, match=r"report\.html was not written by sga_kohya\.hsd"):
        run(photos, out, CONFIG)


def test_a_preview_removes_only_what_a_preview_made(photos, tmp_path):
    out = tmp_path / "out"
    preview(photos, out, CONFIG, 3)
    mine = [out / "preview" / name for name in ("mine.png", "report/mine.jpg", "report/p0.jpg")]
    for path in mine:
        path.write_bytes(b"mine")
    preview(photos, out, CONFIG, 1)
    assert all(path.read_bytes() == b"mine" for path in mine[:2])
    assert {path.name for path in (out / "preview" / "report").iterdir()} == {"mine.jpg", "p0.jpg", "p0+photo.jpg"}
    (out / "preview" / MANIFEST).write_text('{"file": "report/mine.jpg"}\n')
    with pytest.raises(SgaError, match="not a row of"):
        preview(photos, out, CONFIG, 2)
    assert mine[0].exists()


def test_two_processes_do_not_write_into_one_folder(photos, tmp_path, capsys):
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", KILLED_RUN, photos, out], cwd=Path(__file__).parents[1])
    try:
        while not list(out.glob("1_micro/*.txt")) and process.poll() is None:
            time.sleep(0.01)
        assert main([str(photos), str(out)]) == 2
        error = capsys.readouterr().err
        assert error == (
            f"sga_kohya.hsd: error: another process is writing into {out}: wait for its end, or give another OUT\n"
        )
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (out / LOCK).exists() and (out / JOURNAL).exists()
    assert run(photos, out, CONFIG).tally.photos == 6, "the lock of a dead process is no obstacle"


def test_what_a_killed_run_left_below_photos_is_no_photo(photos, tmp_path):
    killed = photos / "killed"
    shutil.copytree(photos / "sub", killed / "1_macro")
    (killed / JOURNAL).touch()
    being_made = photos / "running"
    shutil.copytree(photos / "sub", being_made / "1_macro")
    with only_writer(being_made, ""):
        result = run(photos, tmp_path / "out", CONFIG)
    assert result.tally.photos == 6 and result.found.results == ["killed", "running"]


def test_partition_s_folder_has_one_writer_too_and_keeps_corrected_labels(photos, tmp_path, capsys):
    from sga_kohya.partition.__main__ import main as partition

    out = tmp_path / "labels"
    arguments = [str(photos), str(out), "--by", "random"]
    with only_writer(out, ""):
        assert partition(arguments) == 2
    assert "another process is writing into" in capsys.readouterr().err
    assert partition(arguments) == 0
    assert partition(arguments) == 0 and "edited" not in capsys.readouterr().out
    labels, own = (out / MANIFEST).read_text(), (out / MANIFEST).read_text().replace("macro", "micro")
    (out / MANIFEST).write_text(own)
    with (out / "dataset.toml").open("a") as file:
        file.write("# mine\n")
    assert partition(arguments) == 0
    said = capsys.readouterr().out
    assert all(f"what was edited by hand is in {out / name} now" in said for name in ASIDE)
    assert ((out / ASIDE[0]).read_text(), (out / MANIFEST).read_text()) == (own, labels)
