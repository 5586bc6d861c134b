"""Which saved checkpoint stands for a multiple of N1."""

import os

import numpy as np
import pytest
import toml
from safetensors.numpy import save_file

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.__main__ import main
from sga_kohya.evaluate.plan.plan_file import read_plan
from sga_kohya.evaluate.sample.checkpoints import all_runs, find_runs, pick
from sga_kohya.evaluate.sample.images import weights_of
from sga_kohya.kit.safetensors_file import read_header

from .evaluate_world import write_plan


def save(folder, name, **metadata):
    folder.mkdir(exist_ok=True)
    save_file({"x": np.zeros(1, np.float32)}, folder / f"{name}.safetensors", {k: str(v) for k, v in metadata.items()})
    return folder / f"{name}.safetensors"


def test_the_nearest_within_half_an_hour_and_no_further(tmp_path):
    for hours in (7.2, 13.8, 14.4, 20.6):
        save(tmp_path, f"run-{hours}h", ss_output_name="run", ss_sga_train_hours=hours)
    run = find_runs(tmp_path)
    assert pick(run, 14).file.name == "run-13.8h.safetensors"
    assert pick(run, 14.3).file.name == "run-14.4h.safetensors"
    assert pick(run, 21).hours == 20.6
    with pytest.raises(SgaError, match=r"7.20 h is the nearest to 10.00 h, but 168 minutes away.*save_at_hours 10"):
        pick(run, 10)
    assert pick(run, 10, tolerance_minutes=180).hours == 7.2


def test_exactly_half_an_hour_is_within(tmp_path):
    save(tmp_path, "run", ss_sga_train_hours="13.5")
    assert pick(find_runs(tmp_path), 14).hours == 13.5


def test_runs_that_share_a_folder_are_told_apart(tmp_path):
    save(tmp_path, "a-000002", ss_output_name="a", ss_sga_train_hours=1)
    save(tmp_path, "a", ss_output_name="a", ss_sga_train_hours=2)
    save(tmp_path, "b-14h", ss_sga_train_hours=14)  # a checkpoint that names no output_name
    save(tmp_path, "b-step00000100", ss_sga_train_hours=3)
    save(tmp_path, "other")  # tells no hours
    assert {name: [c.hours for c in run] for name, run in all_runs(tmp_path).items()} == {"a": [1, 2], "b": [3, 14]}
    with pytest.raises(SgaError, match="several runs: write output_name, one of a, b"):
        find_runs(tmp_path)
    assert [c.hours for c in find_runs(tmp_path, "b")] == [3, 14]
    with pytest.raises(SgaError, match="only of a, b"):
        find_runs(tmp_path, "c")


def test_times_of_the_run_stand_in_where_hours_are_not_measured(tmp_path):
    started = 1_700_000_000.0
    ended = save(tmp_path, "a-1", ss_training_started_at=started, ss_training_finished_at=started + 7200)
    by_file = save(tmp_path, "a-2", ss_training_started_at=started, ss_training_finished_at=None)
    os.utime(by_file, (started + 10_800, started + 10_800))
    found = {c.file: (c.hours, c.source) for c in find_runs(tmp_path)}
    assert found == {ended: (2, "wall time of the run"), by_file: (3, "time of the file")}


def test_folders_without_a_usable_file_are_said(tmp_path):
    with pytest.raises(SgaError, match="no .safetensors file"):
        find_runs(tmp_path)
    save(tmp_path, "a")
    with pytest.raises(SgaError, match="no file tells how long it was trained"):
        find_runs(tmp_path)
    (tmp_path / "cut.safetensors").write_bytes(b"\xff\xff")
    with pytest.raises(SgaError, match="no safetensors file, or cut short"):
        read_header(tmp_path / "cut.safetensors")


def test_the_command_names_each_pick_and_fails_where_there_is_none(tmp_path, capsys):
    save(tmp_path / "models", "a-14h", ss_output_name="a", ss_sga_train_hours=14.1)
    save(tmp_path / "models", "a-21h", ss_output_name="a", ss_sga_train_hours=21.0)
    assert main(["checkpoints", str(tmp_path / "models"), "--n1_hours", "14"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("a  1 N1") and "a-14h.safetensors  14.10 h" in lines[0] and "a-21h" in lines[1]
    assert main(["checkpoints", str(tmp_path / "models"), "--n1_hours", "20"]) == 2
    assert "1 N1  none: a-21h.safetensors at 21.00 h is the nearest to 20.00 h, but 60" in capsys.readouterr().err
    assert main(["checkpoints", str(tmp_path / "models")]) == 2
    assert main(["checkpoints", str(tmp_path / "models"), "--n1_hours", "14", "--at", "one"]) == 2


def test_a_plan_takes_its_weights_from_runs(tmp_path, capsys):
    save(tmp_path / "models", "alpha-14h", ss_output_name="alpha", ss_sga_train_hours=14.0)
    save(tmp_path / "models", "alpha-21h", ss_output_name="alpha", ss_sga_train_hours=21.2)
    path = write_plan(tmp_path, ("one", "two"), ("alpha",))
    values = toml.loads(path.read_text())
    runs = {"run": "models", "output_name": "{dataset}"}
    values["variants"] = [{"name": "one", "budget": 1, **runs}, {"name": "two", "budget": 1.5, **runs}]
    path.write_text(toml.dumps(values))
    with pytest.raises(SgaError, match="n1_hours of dataset alpha is missing"):
        read_plan(path)
    values["datasets"][0]["n1_hours"] = 14
    path.write_text(toml.dumps(values))
    plan = read_plan(path)
    found = [weights_of(plan, variant, plan.datasets[0]).name for variant in plan.variants]
    assert found == ["alpha-14h.safetensors", "alpha-21h.safetensors"]
    assert main(["checkpoints", str(path)]) == 0
    assert "alpha  two  1.5 N1 = 21 h" in capsys.readouterr().out


@pytest.mark.parametrize("hours", ["nan", "inf", "-inf", "-1", "1e999", "soon", ""])
def test_hours_that_cannot_be_are_no_hours(tmp_path, hours):
    save(tmp_path, "a-1", ss_output_name="a", ss_sga_train_hours=hours)
    with pytest.raises(SgaError, match="no file tells how long it was trained"):
        find_runs(tmp_path)
    save(tmp_path, "a-2", ss_output_name="a", ss_sga_train_hours=14)
    assert [c.hours for c in find_runs(tmp_path)] == [14]


@pytest.mark.parametrize("words", [["--n1_hours", "nan"], ["--n1_hours", "inf"], ["--n1_hours", "14", "--at", "nan"]])
def test_multiples_that_are_no_number_are_refused(tmp_path, capsys, words):
    save(tmp_path, "a", ss_sga_train_hours=14)
    assert main(["checkpoints", str(tmp_path), *words]) == 2
    assert f"error: {words[-2]}" in capsys.readouterr().err
    assert main(["checkpoints", str(tmp_path), "--n1_hours", "14", "--tolerance_minutes", "nan"]) == 2


HEADERS = ["5", "[]", '{"__metadata__": 5}', '{"__metadata__": {"ss_output_name": 7}}', "[" * 5000, '{"a', "9" * 5000]


@pytest.mark.parametrize("header", HEADERS, ids=[text[:30] for text in HEADERS])
def test_a_header_that_is_none_is_named(tmp_path, header):
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())
    with pytest.raises(SgaError, match="a.safetensors: no safetensors file, or cut short"):
        all_runs(tmp_path)
