"""What a run shows of itself and when it saves and stops by the clock, on the real sd-scripts."""

import re
from pathlib import Path

import pytest
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from .data import LEVELS, write_dataset
from .test_sga import FULL, LORA, MIXED_K, assert_same_weights, of
from .tiny_flux import finetune_args, lora_args


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", MIXED_K)


@pytest.mark.parametrize("script", [LORA, FULL])
def test_trackers_get_loss_by_granularity_and_noise_level(run_host, tiny_models, dataset, tmp_path, script):
    arguments = (lora_args if script == LORA else finetune_args)(
        tiny_models, dataset, tmp_path / "out", logging_dir=tmp_path / "logs", log_with="tensorboard", max_train_steps=7
    )
    run = run_host(script, "sga", arguments, record=True)
    logged = scalars(tmp_path / "logs")
    assert [event.step for event in logged["sga/tuples"]] == [1, 2, 3, 4, 5, 6, 7]
    assert [event.value for event in logged["sga/tuples"]][-2] == len(MIXED_K)
    assert all(0 < event.value <= 1 for event in logged["sga/fill"])
    assert all(event.value > 0 for event in logged["sga/samples_per_second"])
    assert {f"loss/{label}" for label in LEVELS} <= logged.keys()
    # The raw loss: one sub-batch of one sample shows the host's own loss.
    losses = {round(float(event["loss"]), 5) for event in of(run.events[0], "backward")}
    assert {round(event.value, 5) for label in LEVELS for event in logged[f"loss/{label}"]} & losses
    by_noise = [event for name, events in logged.items() if name.startswith("loss/noise_") for event in events]
    assert len(by_noise) >= 7
    assert all(f"{label}=" in run.output for label in LEVELS), "the progress bar shows each granularity"
    assert re.search(r"left=\d+ (s|min)", run.output), "and how long it still takes"
    assert "  memory    about " in run.output and "GB of a GPU, an estimate: " in run.output


def scalars(folder: Path) -> dict[str, list]:
    found: dict[str, list] = {}
    for file in folder.rglob("events.out.*"):
        reader = EventAccumulator(str(file)).Reload()
        for name in reader.Tags()["scalars"]:
            found.setdefault(name, []).extend(reader.Scalars(name))
    return found


@pytest.mark.parametrize("script", [LORA, FULL])
def test_saves_and_stops_by_the_hours(run_host, tiny_models, dataset, tmp_path, script):
    """A second of training is more than one step of the tiny model and far less than the 500 asked for."""
    arguments = (lora_args if script == LORA else finetune_args)(
        tiny_models,
        dataset,
        tmp_path / "out",
        max_train_steps=500,
        save_every_n_epochs=1000,
        logging_dir=tmp_path / "logs",
        log_with="tensorboard",
    )
    run = run_host(script, "sga", {**arguments, "sga_save_at_hours": "1e-9", "sga_stop_at_hours": "3e-4"}, record=True)
    steps = len(of(run.events[0], "step"))
    assert 1 <= steps < 500
    assert {path.name for path in (tmp_path / "out").glob("*.safetensors")} == {
        "tiny-1e-09h.safetensors",
        "tiny.safetensors",
    }
    with safe_open(tmp_path / "out" / "tiny.safetensors", "pt") as file:
        assert 0 < float(file.metadata()["ss_sga_train_hours"]) < 0.05
        if script == LORA:
            assert file.metadata()["ss_steps"] == str(steps)
            assert file.metadata()["ss_epoch"] == str(-(-steps // 6)), "the last of which anything was trained"
    epochs = [events for name, events in scalars(tmp_path / "logs").items() if name.startswith("loss/epoch")]
    assert run.output.count("\nepoch ") == len(epochs[0]) < 500 / 6 / 2, "epochs that are cut off pass in silence"


def test_budgets_alone_leave_training_as_stock(run_host, tiny_models, dataset, tmp_path):
    """So that a baseline twin is compared at equal hours."""
    run_host(LORA, "stock", lora_args(tiny_models, dataset, tmp_path / "stock"))
    off = {"sga_tuples": "false", "sga_modulation": "false", "sga_save_at_hours": "1e-9"}
    run_host(LORA, "sga", lora_args(tiny_models, dataset, tmp_path / "sga", **off))
    assert_same_weights(tmp_path / "stock" / "tiny.safetensors", tmp_path / "sga" / "tiny.safetensors")
    assert (tmp_path / "sga" / "tiny-1e-09h.safetensors").exists()
