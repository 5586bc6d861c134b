"""Every script there is a door for, run once on the real musubi-tuner with a tiny model of its family."""

import pytest
import torch
from safetensors import safe_open

from sga_kohya.hosts.musubi.families import SCRIPTS

from .conftest import GROUPS, SIZES
from .stacks import CLIP_SIZE, RUNS, STACKS
from .test_families import DELTA_0
from .test_flux_2 import MEMBERS, clipped, eq_6, of, recorded, same, steps, weights

# test_flux_2 and test_families do more with the others.
SMOKE = [script for script, run in RUNS.items() if run["stack"] not in ("flux_2", "wan", "z_image")]


def in_bf16(left: list[torch.Tensor], right: list[torch.Tensor]) -> None:
    """One gradient, up to the rounding of a network that computes in bf16."""
    one, other = (torch.cat([grad.flatten() for grad in grads if grad is not None]) for grads in (left, right))
    assert (one - other).norm() < 0.02 * other.norm()


def test_every_script_has_a_tiny_run():
    assert RUNS.keys() == SCRIPTS.keys()


@pytest.mark.parametrize("script", SMOKE)
def test_a_script_trains_whole_groups_by_eq_6_and_without_effect_equals_stock_bit_for_bit(run, tmp_path, script):
    """Of a family that trains on videos, clips and images share steps."""
    settings = {"script": script, "max_train_epochs": 1, **RUNS[script]}
    run(
        {"door": "stock", "out": "stock", **settings},
        {"door": "sga", "out": "zero", "sga_tuples": "false", "sga_timestep_shift": DELTA_0, **settings},
        {"door": "sga", "out": "on", "record": True, **settings},
    )
    stock, trained = weights(tmp_path / "stock"), steps(recorded(tmp_path, "on"))
    assert same(stock, weights(tmp_path / "zero")) and not same(stock, weights(tmp_path / "on"))
    assert sorted(n for step in trained for batch in of(step, "batch") for n in batch["ids"]) == sorted(MEMBERS)
    for step in trained:
        batches = of(step, "batch")
        slices = [MEMBERS[number] for batch in batches for number in batch["ids"]]
        assert all({level for i, level in slices if i == index} == set(GROUPS[index]) for index, _ in slices)
        in_bf16(of(step, "step")[0]["grads"], clipped(eq_6(batches, of(step, "backward"))))
    shapes = {batch["shape"] for step in trained for batch in of(step, "batch")}
    assert {shape[-2:] for shape in shapes} <= {SCRIPTS[script].latent_size(size)[::-1] for size in (*SIZES, CLIP_SIZE)}
    if STACKS[settings["stack"]].videos:
        assert any({batch["shape"][2] for batch in of(step, "batch")} == {1, 2} for step in trained)
    with safe_open(tmp_path / "on" / "tiny.safetensors", "pt") as file:
        assert file.metadata()["ss_sga_modulated_by"] == "timestep_shift"
