"""On the real musubi-tuner: off is stock; Wan and Z-Image with 5-D latents, clips, two models, a full fine-tune."""

import pytest

from .conftest import GROUPS
from .test_flux_2 import MEMBERS, clipped, close, eq_6, of, recorded, same, steps, weights

DELTA_0 = "macro:0,meso:0,micro:0"
STACKS = {
    "wan": {"stack": "wan"},
    "wan with two models": {"stack": "wan", "dit_high_noise": "wan_high.safetensors", "timestep_boundary": 700},
    "z_image": {"stack": "z_image"},
    "z_image adapter": {
        "stack": "z_image",
        "script": "zimage_train_network",
        "network_module": "networks.lora_zimage",
        "network_dim": 4,
    },
}
FLUX_2 = {
    "flux_2": {"timestep_sampling": "flux2_shift"},
    "flux_2 in mode sigma": {"timestep_sampling": "sigma"},
    "flux_2 in bf16": {"mixed_precision": "bf16"},
}


@pytest.fixture
def settings(world_of, tuner, request) -> dict:
    found = dict({**STACKS, **FLUX_2}[request.param])
    if "dit_high_noise" in found:
        found["dit_high_noise"] = world_of(tuner, "wan") / found["dit_high_noise"]
    return found


@pytest.mark.parametrize("settings", [*STACKS, *FLUX_2], indirect=True)
def test_switched_off_and_without_effect_equal_stock_bit_for_bit(run, tmp_path, settings):
    common = {"max_train_epochs": 1, **settings}
    run(
        {"door": "stock", "out": "stock", **common},
        {"door": "sga", "out": "off", "sga": "false", **common},
        {"door": "sga", "out": "zero", "sga_tuples": "false", "sga_timestep_shift": DELTA_0, **common},
        {"door": "sga", "out": "moved", "sga_tuples": "false", **common},
    )
    stock = weights(tmp_path / "stock")
    assert same(stock, weights(tmp_path / "off")) and same(stock, weights(tmp_path / "zero"))
    assert not same(stock, weights(tmp_path / "moved"))


@pytest.mark.parametrize("settings", STACKS, indirect=True)
def test_groups_are_whole_and_the_gradient_is_that_of_eq_6(run, tmp_path, settings):
    """With Wan the macro slices are clips, so clips and images train in one step."""
    output = run({"door": "sga", "out": "on", "record": True, "max_train_epochs": 1, **settings})
    assert "SGA tuple plan" in output
    trained = steps(recorded(tmp_path, "on"))
    assert sorted(n for step in trained for batch in of(step, "batch") for n in batch["ids"]) == sorted(MEMBERS)
    for step in trained:
        batches = of(step, "batch")
        slices = [MEMBERS[number] for batch in batches for number in batch["ids"]]
        assert all({level for i, level in slices if i == index} == set(GROUPS[index]) for index, _ in slices)
        close(of(step, "step")[0]["grads"], clipped(eq_6(batches, of(step, "backward"))))
    frames = [{batch["shape"][2] for batch in of(step, "batch")} for step in trained]
    if settings["stack"] == "wan":
        assert any(found == {1, 2} for found in frames), "clips of two latent frames beside images of one"


@pytest.mark.parametrize("settings", ["wan", "z_image"], indirect=True)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(run, tmp_path, settings):
    common = {"door": "sga", "max_train_epochs": 3, "save_state": True, "save_every_n_steps": 5, **settings}
    run(
        {"out": "whole", **common},
        {"out": "again", **common, "resume": tmp_path / "whole" / "tiny-step00000005-state"},
    )
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "again"))
