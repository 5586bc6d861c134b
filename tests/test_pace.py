"""How long a run still takes: counted by pictures, without its first steps."""

from argparse import Namespace
from dataclasses import replace

import pytest

from sga_kohya.config import SgaConfig
from sga_kohya.training import paces
from sga_kohya.training.accelerator import HostAccelerator
from sga_kohya.training.dataset import RunDataset
from sga_kohya.training.memory import MODELS, Load
from sga_kohya.training.pace import LEFT_OUT, Pace
from sga_kohya.tuples.step import Slice


def test_time_left_goes_by_pictures_and_leaves_the_first_steps_out():
    pace, seconds = Pace(), 0.0
    for pictures in (6, 6):  # loading and compiling
        pace.count(pictures)
        seconds += 100.0
        pace.after_step(seconds)
        assert pace.left(10) is None
    assert pace.steps == LEFT_OUT
    for pictures in (2, 4, 6):  # two seconds each
        for _ in range(2):
            pace.count(pictures // 2)
        seconds += 2.0 * pictures
        pace.after_step(seconds)
        assert pace.left(100) == pytest.approx(200)
    assert pace.left(0) == 0


def test_steps_without_pictures_say_nothing():
    pace = Pace()
    for _ in range(5):
        pace.after_step(1.0)
    assert pace.left(10) is None


MODEL, LOAD = MODELS["FLUX"], Load(2, 1024, trained=0.04)
CONFIG = SgaConfig()


@pytest.fixture
def table(tmp_path, monkeypatch):
    file = tmp_path / "cache" / "pace.toml"
    monkeypatch.setenv("SGA_PACE_TABLE", str(file))
    monkeypatch.setattr(paces, "card", lambda: 'A "card"\x1b[31m')
    return file


def test_the_plan_says_how_long_a_run_takes_once_one_like_it_has_been_measured(table):
    task = paces.task_of(MODEL, LOAD)
    assert paces.forecast(task, 6000, CONFIG).startswith("not known: no run of this model, size and settings has ended")
    assert str(table) in paces.record(task, 2.5, 400)
    said = paces.forecast(task, 6000, CONFIG)
    assert said.startswith("about 4 h 10 min: 2.5 s a picture, measured here on 20") and "\x1b" not in said
    assert paces.forecast(task, 6000, SgaConfig(stop_at_hours=1.5)).startswith("about 1 h 30 min")


@pytest.mark.parametrize("change", [{"batch": 4}, {"side": 512}, {"swapped": 8}, {"checkpointing": False}])
def test_a_pace_of_other_settings_is_not_taken_for_this_one(table, change):
    paces.record(paces.task_of(MODEL, LOAD), 2.5, 400)
    assert "not known" in paces.forecast(paces.task_of(MODEL, replace(LOAD, **change)), 6000, CONFIG)


def test_a_pace_of_another_card_or_model_is_not_taken_for_this_one(table, monkeypatch):
    paces.record(paces.task_of(MODEL, LOAD), 2.5, 400)
    assert "not known" in paces.forecast(paces.task_of(MODELS["SDXL"], LOAD), 6000, CONFIG)
    monkeypatch.setattr(paces, "card", lambda: "another")
    assert "not known" in paces.forecast(paces.task_of(MODEL, LOAD), 6000, CONFIG)


def test_the_last_measurement_counts_and_the_others_stay(table):
    one, other = paces.task_of(MODEL, LOAD), paces.task_of(MODEL, replace(LOAD, batch=4))
    for task, seconds in ((one, 2.5), (other, 1.0), (one, 3.0)):
        paces.record(task, seconds, 400)
    assert "3 s a picture" in paces.forecast(one, 1, CONFIG) and "1 s a picture" in paces.forecast(other, 1, CONFIG)
    assert table.read_text().count("[[pace]]") == 2


@pytest.mark.parametrize("text", ["pace = 1", "[[pace]]\ncard = 3", "[[pace"])
def test_a_table_that_is_none_stops_no_run_and_is_not_overwritten(table, text):
    table.parent.mkdir()
    table.write_text(text)
    task = paces.task_of(MODEL, LOAD)
    assert paces.forecast(task, 1, CONFIG).startswith("not known: ") and str(table) in paces.forecast(task, 1, CONFIG)
    assert "was not noted" in paces.record(task, 1.0, 400)
    assert table.read_text() == text


@pytest.mark.parametrize(("steps", "main", "noted"), [(12, True, True), (5, True, False), (12, False, False)])
def test_a_run_that_ends_notes_its_pace_once_and_one_that_was_too_short_does_not(table, steps, main, noted):
    pace, task, said = Pace(), paces.task_of(MODEL, LOAD), []
    for step in range(steps):
        pace.count(6)
        pace.after_step(3.0 * (step + 1))
    run = Namespace(session=Namespace(task=task), pace=pace, is_main_process=main, print=said.append)
    HostAccelerator._note_pace(run)
    assert bool(said) == table.exists() == noted
    assert ("0.5 s a picture" in paces.forecast(task, 1, CONFIG)) == noted


@pytest.mark.parametrize(
    ("options", "processes", "pictures"),
    [
        ({"max_train_epochs": 10, "max_train_steps": 1600}, 1, 240),  # the host takes the epochs
        ({"max_train_epochs": None, "max_train_steps": 8}, 1, 48),
        ({"max_train_steps": 8, "gradient_accumulation_steps": 2}, 1, 96),
        ({"max_train_epochs": 10, "max_train_steps": 1600}, 2, 120),
        ({"max_train_steps": 8}, 2, 48),
    ],
)
def test_the_pictures_of_a_run_are_counted_for_each_process(monkeypatch, options, processes, pictures):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    slices = [
        (Slice(0, f"{n}/{level}", level, "square"), str(n)) for n in range(8) for level in ("macro", "meso", "micro")
    ]
    dataset = RunDataset(slices, [2], CONFIG, 0, {})
    assert (len(dataset), paces.pictures_of(dataset, Namespace(**options))) == (4, pictures)


def test_none_for_a_table_notes_and_knows_nothing(table, monkeypatch):
    monkeypatch.setenv("SGA_PACE_TABLE", "none")
    task = paces.task_of(MODEL, LOAD)
    assert paces.record(task, 1.0, 400) == "" and "SGA_PACE_TABLE is none" in paces.forecast(task, 1, CONFIG)
