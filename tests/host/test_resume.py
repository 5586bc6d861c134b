"""Interrupted and resumed on the real sd-scripts: the same weights, names and counts as without the interruption."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ..forked import python
from .conftest import RUNNER, to_arguments
from .data import write_dataset
from .doors import DOORS
from .test_sga import FULL, LORA, MIXED_K, assert_same_weights, of
from .tiny_flux import finetune_args, lora_args

STEPS_PER_EPOCH = 6  # of MIXED_K at batch size 2


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", MIXED_K)


def settings(script: str, *args, **options) -> dict:
    """Nine steps that draw on everything a state must bring back; a state every fourth."""
    usual = {"lr_scheduler": "cosine", "lr_warmup_steps": 3, "network_dropout": 0.1 if script == LORA else None}
    usual |= {"max_train_steps": 9, "save_state": True, "save_every_n_steps": 4}
    return (lora_args if script == LORA else finetune_args)(*args, **usual | options)


@pytest.mark.parametrize(
    ("script", "options"),
    [
        (LORA, {}),
        (LORA, {"max_data_loader_n_workers": 2, "persistent_data_loader_workers": True}),
        (LORA, {"gradient_accumulation_steps": 2, "max_train_steps": 5, "save_every_n_steps": 2, "seed": None}),
        (FULL, {}),
    ],
    ids=["lora", "workers", "accumulation-no-seed", "full"],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    run_host, tiny_models, dataset, tmp_path, script, options
):
    shuffled = dataset.read_text().replace(
        "num_repeats = 1", "num_repeats = 1\nflip_aug = true\ntoken_warmup_step = 9\ncaption_dropout_rate = 0.3"
    )
    dataset.write_text(shuffled)
    whole = tmp_path / "whole"
    run_host(script, "sga", settings(script, tiny_models, dataset, whole, **options))
    every = options.get("save_every_n_steps", 4)
    for step in (every, 2 * every):
        out = tmp_path / f"from{step}"
        again = settings(script, tiny_models, dataset, out, resume=whole / f"tiny-step{step:08d}-state", **options)
        if options.get("seed", 7) is None:
            again["seed"] = None
        run = run_host(script, "sga", again, record=True)
        assert len(of(run.events[0], "step")) == again["max_train_steps"] - step
        expected = {path.name for path in whole.glob("*.safetensors")} - {
            f"tiny-step{n:08d}.safetensors" for n in range(step + 1)
        }
        assert {path.name for path in out.glob("*.safetensors")} == expected
        for name in expected:
            assert_same_weights(whole / name, out / name)


@pytest.mark.parametrize("script", ["train_network.py", "sd3_train.py"])
def test_other_families_resume_as_exactly(run_host, tiny_models, dataset, tmp_path, script):
    door = next(door for door in DOORS if door.script == script)
    options = {"max_train_steps": 8, "save_every_n_steps": 7, "save_state": True, "lr_scheduler": "cosine"}
    whole, out = tmp_path / "whole", tmp_path / "out"
    run_host(script, "sga", door.arguments(tiny_models, dataset, whole, **options))
    state = whole / "tiny-step00000007-state"
    run = run_host(script, "sga", door.arguments(tiny_models, dataset, out, **options, resume=state), record=True)
    assert len(of(run.events[0], "step")) == 1
    assert_same_weights(whole / "tiny.safetensors", out / "tiny.safetensors")


def test_two_processes_resume_as_exactly(run_host, tiny_models, dataset, tmp_path):
    options = {"max_train_steps": 5, "save_every_n_steps": 4}
    whole, out = tmp_path / "whole", tmp_path / "out"
    run_host(LORA, "sga", settings(LORA, tiny_models, dataset, whole, **options), nproc=2)
    again = settings(LORA, tiny_models, dataset, out, **options, resume=whole / "tiny-step00000004-state")
    run_host(LORA, "sga", again, nproc=2)
    assert_same_weights(whole / "tiny.safetensors", out / "tiny.safetensors")


@pytest.mark.parametrize("script", [LORA, FULL])
def test_other_accumulation_trains_the_steps_that_are_left(run_host, tiny_models, dataset, tmp_path, script):
    """The epochs of a state are counted as this run counts them: it had more of them."""
    first = {"gradient_accumulation_steps": 3, "max_train_steps": 7, "save_every_n_steps": 7}
    run_host(script, "sga", settings(script, tiny_models, dataset, tmp_path / "out", **first))
    then = {"gradient_accumulation_steps": 1, "max_train_steps": 9}
    args = settings(script, tiny_models, dataset, tmp_path / "next", **then, resume=tmp_path / "out" / "tiny-state")
    run = run_host(script, "sga", args, record=True)
    assert "gradient accumulation 3, now 1" in run.output
    assert len(of(run.events[0], "step")) == 2


def test_a_baseline_counts_its_hours_over_resumes(run_host, tiny_models, dataset, tmp_path):
    options = {"sga_tuples": "false", "sga_modulation": "false", "sga_save_at_hours": "1e-9"}
    out = tmp_path / "out"
    run_host(LORA, "sga", settings(LORA, tiny_models, dataset, out, **options, max_train_steps=4))
    before = json.loads((out / "tiny-state" / "sga_cursor.json").read_text())
    assert before["seconds"] > 0 and before["saved_hours"] == [1e-9]
    again = settings(
        LORA, tiny_models, dataset, tmp_path / "b", **options, max_train_steps=2, resume=out / "tiny-state"
    )
    run_host(LORA, "sga", again | {"initial_step": 1})
    after = json.loads((tmp_path / "b" / "tiny-state" / "sga_cursor.json").read_text())
    assert after["seconds"] > before["seconds"] and after["saved_hours"] == [1e-9]
    assert not (tmp_path / "b" / "tiny-1e-09h.safetensors").exists()


def test_a_state_knows_its_place_and_appears_whole(run_host, tiny_models, dataset, tmp_path):
    run_host(LORA, "sga", settings(LORA, tiny_models, dataset, tmp_path / "out", save_every_n_steps=3))
    cursors = {
        path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*-state/sga_cursor.json")
    }
    assert {name: (c["step"], c["epoch"], c["position"]) for name, c in cursors.items()} == {
        "tiny-step00000003-state": (3, 1, 3),
        "tiny-step00000006-state": (6, 2, 0),
        "tiny-step00000009-state": (9, 2, 3),
        "tiny-state": (9, 2, 3),
    }
    assert not list((tmp_path / "out").glob("*.part*"))
    seconds = [cursors[name]["seconds"] for name in sorted(cursors)]
    assert min(seconds) > 0


def test_resuming_a_finished_run_is_one_clear_error(run_host, tiny_models, dataset, tmp_path):
    run_host(
        LORA, "sga", settings(LORA, tiny_models, dataset, tmp_path / "out", max_train_steps=2, save_every_n_steps=2)
    )
    again = settings(
        LORA, tiny_models, dataset, tmp_path / "out", max_train_steps=2, resume=tmp_path / "out" / "tiny-state"
    )
    run = run_host(LORA, "sga", again, check=False)
    assert run.returncode == 2
    assert "is at step 2 and max_train_steps is 2: ask for more" in run.output


def test_other_data_begin_the_epoch_anew_and_keep_the_count(run_host, tiny_models, dataset, tmp_path):
    run_host(LORA, "sga", settings(LORA, tiny_models, dataset, tmp_path / "out", max_train_steps=4))
    more = write_dataset(tmp_path / "more", [*MIXED_K, *MIXED_K])
    again = settings(
        LORA, tiny_models, more, tmp_path / "next", max_train_steps=6, resume=tmp_path / "out" / "tiny-state"
    )
    run = run_host(LORA, "sga", again, record=True)
    assert "groups 8, now 16" in " ".join(run.output.split()), run.output
    assert len(of(run.events[0], "step")) == 2
    with safe_open(tmp_path / "next" / "tiny.safetensors", "pt") as file:
        assert file.metadata()["ss_steps"] == "6"


def test_what_changed_since_the_state_is_said_and_a_damaged_one_is_one_sentence(
    run_host, tiny_models, dataset, tmp_path
):
    out = tmp_path / "out"
    options = {"max_train_steps": 4, "save_every_n_steps": 2}
    run_host(LORA, "sga", settings(LORA, tiny_models, dataset, out, **options))
    caption = dataset.parent / "1_macro" / "00_astronaut.txt"
    caption.write_text("somebody else")
    again = settings(LORA, tiny_models, dataset, tmp_path / "next", max_train_steps=6, resume=out / "tiny-state")
    said = " ".join(run_host(LORA, "sga", again).output.split())
    assert "since tiny-state was saved: 1 image is of another caption (1_macro/00_astronaut.png)" in said
    assert "the plan has changed" not in said and " is new " not in said and " edited " not in said
    file = out / "tiny-state" / "optimizer.bin"
    file.write_bytes(file.read_bytes()[:1000])
    run = run_host(LORA, "sga", again, check=False)
    newest = out / "tiny-step00000004-state"
    told = f"tiny-state: optimizer.bin in it is damaged; the newest whole state of that run is {newest}\n"
    assert run.returncode == 2 and run.output.endswith(told)


def test_a_kill_at_any_moment_leaves_only_whole_files(checkout, run_host, tiny_models, dataset, tmp_path):
    """Killed again and again while it saves at every step, then resumed from the last state to the same end."""
    options = {"save_every_n_steps": 1, "max_train_steps": 8, "save_last_n_steps_state": 3}
    whole, out = tmp_path / "whole", tmp_path / "out"
    run_host(LORA, "sga", settings(LORA, tiny_models, dataset, whole, **options))
    for wanted in (2, 5):
        args = settings(LORA, tiny_models, dataset, out, **options, resume=last_state(out))
        kill_after(wanted, checkout, args, out, tmp_path)
        for path in out.glob("*.safetensors"):
            assert load_file(path)
        for state in out.glob("*-state"):
            assert {"model.safetensors", "optimizer.bin", "scheduler.bin", "sga_cursor.json"} <= {
                p.name for p in state.iterdir()
            }
            assert torch.load(state / "optimizer.bin", weights_only=False)
    run_host(LORA, "sga", settings(LORA, tiny_models, dataset, out, **options, resume=last_state(out)))
    assert_same_weights(whole / "tiny.safetensors", out / "tiny.safetensors")


def last_state(out: Path) -> Path | None:
    return max(out.glob("tiny-step*-state"), default=None)


def kill_after(step: int, checkout: Path, args: dict, out: Path, folder: Path) -> None:
    """At once, as soon as the state of that step begins to be written or is there."""
    command = [*python(), str(RUNNER), "--checkout", str(checkout), "--script", LORA, "--door", "sga"]
    log, deadline = folder / "killed.log", time.monotonic() + 120
    with log.open("wb") as said:
        process = subprocess.Popen([*command, "--", *to_arguments(args)], cwd=folder, stdout=said, stderr=said)
    while not list(out.glob(f"tiny-step{step:08d}-state*")) and time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.001)
    process.terminate()  # not SIGKILL, of which the one who waits for the fork could not tell it
    assert process.wait() == -signal.SIGTERM, "nobody handles it"
