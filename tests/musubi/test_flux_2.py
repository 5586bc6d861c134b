"""The real musubi-tuner, trained through our door on a tiny FLUX.2: what SGA changes, and what it leaves alone."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from .conftest import GROUPS

DELTA_0 = "macro:0,meso:0,micro:0"
MEMBERS = {}  # the number in a slice's latents -> (group, level), as tiny.write_dataset counts them
for index, group in enumerate(GROUPS):
    for level in group:
        MEMBERS[len(MEMBERS)] = (index, level)


def weights(folder: Path, name: str = "tiny") -> dict[str, torch.Tensor]:
    return load_file(folder / f"{name}.safetensors")


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def steps(events: list[dict]) -> list[list[dict]]:
    """Events of each optimizer step."""
    found: list[list[dict]] = [[]]
    for event in events:
        found[-1].append(event)
        if event["kind"] == "step":
            found.append([])
    return found[:-1]


def of(events: list[dict], kind: str) -> list[dict]:
    return [event for event in events if event["kind"] == kind]


@pytest.mark.parametrize("mode", ["flux2_shift", "sigma"])
def test_switched_off_and_without_effect_equal_stock_bit_for_bit(run, tmp_path, mode):
    common = {"timestep_sampling": mode, "max_train_epochs": 1}
    run(
        {"door": "stock", "out": "stock", **common},
        {"door": "sga", "out": "off", "sga": "false", **common},
        {"door": "sga", "out": "zero", "sga_tuples": "false", "sga_timestep_shift": DELTA_0, **common},
        {"door": "sga", "out": "moved", "sga_tuples": "false", **common},
    )
    stock = weights(tmp_path / "stock")
    assert same(stock, weights(tmp_path / "off")) and same(stock, weights(tmp_path / "zero"))
    assert not same(stock, weights(tmp_path / "moved"))


def test_steps_hold_whole_groups_and_the_optimizer_gets_the_gradient_of_eq_6(run, tmp_path):
    output = run({"door": "sga", "out": "on", "record": True, "max_train_epochs": 3, "sga_groups_per_step": 2})
    assert "6: 3 with K=3, 2 with K=2, 1 with K=1" in output
    recorded = torch.load(tmp_path / "on.pt", weights_only=False)
    trained = steps(recorded)
    epochs = [trained[i : i + len(trained) // 3] for i in range(0, len(trained), len(trained) // 3)]
    for epoch in epochs:
        ids = [number for step in epoch for batch in of(step, "batch") for number in batch["ids"]]
        assert Counter(ids) == Counter(list(MEMBERS)), "every slice once an epoch"
    for step in trained:
        batches, backwards = of(step, "batch"), of(step, "backward")
        slices = [MEMBERS[number] for batch in batches for number in batch["ids"]]
        kinds = {frozenset(GROUPS[index]) for index, _ in slices}
        assert len(kinds) == 1, "one K a step"
        assert all({level for i, level in slices if i == index} == set(GROUPS[index]) for index, _ in slices)
        of_level = Counter(level for _, level in slices)
        expected = [torch.zeros_like(grad) for grad in backwards[0]["grads"]]
        for batch, backward in zip(batches, backwards, strict=True):
            (level,) = {MEMBERS[number][1] for number in batch["ids"]}
            share = len(batch["ids"]) / of_level[level] / len(of_level)
            for total, grad in zip(expected, backward["grads"], strict=True):
                total += share * grad
        # The host clips what the optimizer gets to norm 1.
        norm = torch.cat([grad.flatten() for grad in expected]).norm()
        for grad, total in zip(of(step, "step")[0]["grads"], expected, strict=True):
            torch.testing.assert_close(grad, total * min(1.0, 1.0 / (norm + 1e-6)), rtol=1e-4, atol=1e-6)
    assert len({tuple(tuple(b["ids"]) for b in of(s, "batch")) for e in epochs for s in e[:1]}) > 1, "epochs differ"


def test_a_saved_adapter_says_how_it_was_made(run, tmp_path):
    run({"door": "sga", "out": "on", "max_train_epochs": 1, "no_metadata": True})
    with safe_open(tmp_path / "on" / "tiny.safetensors", "pt") as file:
        found = file.metadata()
    assert found["ss_sga_modulated_by"] == "timestep_shift" and found["ss_sga_groups_by_k"] == "3:3,2:2,1:1"


@pytest.mark.parametrize("tracked", [False, True])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(run, tmp_path, tracked):
    """In mid-epoch; stock musubi-tuner would begin at step 0 again."""
    log = {"log_with": "tensorboard", "logging_dir": tmp_path / "log"} if tracked else {}
    common = {"door": "sga", "max_train_epochs": 3, "save_state": True, "save_every_n_steps": 7, **log}
    run(
        {"out": "whole", **common},
        {"out": "again", **common, "resume": tmp_path / "whole" / "tiny-step00000007-state"},
    )
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "again"))


def test_workers_change_nothing(run, tmp_path):
    common = {"door": "sga", "max_train_epochs": 2, "num_timestep_buckets": 4}
    workers = {"max_data_loader_n_workers": 2, "persistent_data_loader_workers": True}
    run({"out": "none", **common}, {"out": "two", **common, **workers})
    assert same(weights(tmp_path / "none"), weights(tmp_path / "two"))
