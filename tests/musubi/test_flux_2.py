"""The real musubi-tuner, trained through our door on a tiny FLUX.2: what SGA changes, and what it leaves alone."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from .conftest import GROUPS

MEMBERS = {}  # the number in a slice's latents -> (group, level), as data.write_images counts them
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


def recorded(tmp_path: Path, name: str, rank: int = 0) -> list[dict]:
    return torch.load(tmp_path / f"{name}.rank{rank}.pt", "cpu", weights_only=False)


def eq_6(batches: list[dict], backwards: list[dict], members: dict[int, tuple] = MEMBERS) -> list[torch.Tensor]:
    """The gradient of one tuple step, recomputed from that of each sub-batch."""
    of_level = Counter(members[number][1] for batch in batches for number in batch["ids"])
    # A full fine-tune has parameters without a gradient.
    total = [torch.zeros_like(grad) for grad in backwards[0]["grads"] if grad is not None]
    for batch, backward in zip(batches, backwards, strict=True):
        (level,) = {members[number][1] for number in batch["ids"]}
        share = len(batch["ids"]) / of_level[level] / len(of_level)
        for part, grad in zip(total, (grad for grad in backward["grads"] if grad is not None), strict=True):
            part += share * grad
    return total


def clipped(grads: list[torch.Tensor]) -> list[torch.Tensor]:
    """The host clips what the optimizer gets to norm 1."""
    norm = torch.cat([grad.flatten() for grad in grads]).norm()
    return [grad * min(1.0, 1.0 / (norm + 1e-6)) for grad in grads]


def tuples(events: list[dict]) -> list[tuple[list[dict], list[dict]]]:
    """(batches, backwards) of each tuple step of one group."""
    found: list[tuple[list[dict], list[dict]]] = []
    group = None
    for batch, backward in zip(of(events, "batch"), of(events, "backward"), strict=True):
        ((of_batch,),) = ({MEMBERS[number][0] for number in batch["ids"]},)
        if of_batch != group:
            found.append(([], []))
        group = of_batch
        found[-1][0].append(batch)
        found[-1][1].append(backward)
    return found


def close(left: list[torch.Tensor], right: list[torch.Tensor]) -> None:
    for one, other in zip((grad for grad in left if grad is not None), right, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_steps_hold_whole_groups_and_the_optimizer_gets_the_gradient_of_eq_6(run, tmp_path):
    output = run({"door": "sga", "out": "on", "record": True, "max_train_epochs": 3, "sga_groups_per_step": 2})
    assert "6: 3 with K=3, 2 with K=2, 1 with K=1" in output
    trained = steps(recorded(tmp_path, "on"))
    epochs = [trained[i : i + len(trained) // 3] for i in range(0, len(trained), len(trained) // 3)]
    for epoch in epochs:
        ids = [number for step in epoch for batch in of(step, "batch") for number in batch["ids"]]
        assert Counter(ids) == Counter(list(MEMBERS)), "every slice once an epoch"
    for step in trained:
        batches = of(step, "batch")
        slices = [MEMBERS[number] for batch in batches for number in batch["ids"]]
        assert len({frozenset(GROUPS[index]) for index, _ in slices}) == 1, "one K a step"
        assert all({level for i, level in slices if i == index} == set(GROUPS[index]) for index, _ in slices)
        close(of(step, "step")[0]["grads"], clipped(eq_6(batches, of(step, "backward"))))
    assert len({tuple(tuple(b["ids"]) for b in of(s, "batch")) for e in epochs for s in e[:1]}) > 1, "epochs differ"


def test_gradient_accumulation_averages_tuple_steps(run, tmp_path):
    settings = {"gradient_accumulation_steps": 2, "sga_groups_per_step": 1, "max_train_epochs": 1}
    run({"door": "sga", "out": "on", "record": True, **settings})
    trained = steps(recorded(tmp_path, "on"))
    assert len(trained) == len(GROUPS) / 2
    for step in trained:
        one, other = (eq_6(*members) for members in tuples(step))
        close(of(step, "step")[0]["grads"], clipped([(a + b) / 2 for a, b in zip(one, other, strict=True)]))


def test_two_processes_share_the_groups_and_average_their_gradients(run, tmp_path):
    settings = {"sga_groups_per_step": 1, "max_train_epochs": 1}
    run({"door": "sga", "out": "on", "record": True, **settings}, nproc=2)
    ranks = [steps(recorded(tmp_path, "on", rank)) for rank in range(2)]
    ids = [n for rank in ranks for step in rank for batch in of(step, "batch") for n in batch["ids"]]
    assert Counter(ids) == Counter(list(MEMBERS)) and [len(rank) for rank in ranks] == [3, 3]
    for pair in zip(*ranks, strict=True):
        one, other = (eq_6(of(step, "batch"), of(step, "backward")) for step in pair)
        average = clipped([(a + b) / 2 for a, b in zip(one, other, strict=True)])
        for step in pair:
            close(of(step, "step")[0]["grads"], average)


def test_a_saved_adapter_says_how_it_was_made(run, tmp_path):
    """Also one of LyCORIS with DoRA, and one saved at its hour by a run that then stops."""
    dora = {"network_module": "lycoris.kohya", "network_args": ["algo=lora", "dora_wd=True", "preset=attn-mlp"]}
    hours = {"sga_save_at_hours": "0.000001", "sga_stop_at_hours": "0.000002", "max_train_epochs": 9}
    run(
        {"door": "sga", "out": "on", "max_train_epochs": 1, "no_metadata": True},
        {"door": "sga", "out": "dora", "max_train_epochs": 1, **dora},
        {"door": "sga", "out": "hours", **hours},
    )
    for name in ("on/tiny", "dora/tiny", "hours/tiny", "hours/tiny-1e-06h"):
        with safe_open(tmp_path / f"{name}.safetensors", "pt") as file:
            found = file.metadata()
        assert found["ss_sga_modulated_by"] == "timestep_shift" and found["ss_sga_groups_by_k"] == "3:3,2:2,1:1"
    assert float(found["ss_sga_train_hours"]) >= 0
    trained = weights(tmp_path / "dora")
    assert sum(key.endswith("dora_scale") for key in trained) == 12
    assert any(value.abs().sum() > 0 for key, value in trained.items() if key.endswith("lora_up.weight"))


def test_interference_is_measured_and_conflicts_are_removed(run, tmp_path):
    common = {"door": "sga", "max_train_epochs": 2, "sga_groups_per_step": 2}
    run(
        {"out": "plain", **common},
        {"out": "probed", **common, "sga_probe_every": 1},
        {"out": "surgery", **common, "sga_gradient_surgery": "pcgrad"},
    )
    rows = [json.loads(line) for line in (tmp_path / "probed" / "tiny_interference.jsonl").read_text().splitlines()]
    assert len(rows) > 2 and same(weights(tmp_path / "plain"), weights(tmp_path / "probed")), "looking changes nothing"
    assert not same(weights(tmp_path / "plain"), weights(tmp_path / "surgery"))


def test_what_training_will_do_is_drawn_without_a_model(run, tmp_path):
    picture = tmp_path / "levels.png"
    output = run({"door": "sga", "out": "none", "sga_show_timesteps": picture, "dit": tmp_path / "no model"})
    assert picture.stat().st_size > 1000 and "nothing was trained" in output
    means = {line.split()[0]: float(line.split()[-1]) for line in output.splitlines() if "128" in line}
    assert means["macro"] > means["meso"] > means["micro"]


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
