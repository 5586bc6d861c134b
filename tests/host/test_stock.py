"""The unmodified host runs on the tiny stack: what every comparison with stock sd-scripts rests on."""

import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from .data import SQUARE, write_dataset, write_plain_dataset
from .tiny_flux import dora_args, finetune_args, lora_args


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    groups = [("macro", "meso", "micro")] * 2 + [("macro", "micro"), ("meso",)]
    return write_dataset(tmp_path / "data", groups)


def assert_identical(left: Path, right: Path) -> None:
    ours, theirs = load_file(left), load_file(right)
    assert ours.keys() == theirs.keys() and ours
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


def test_stock_lora_is_reproducible_and_recording_changes_nothing(run_host, tiny_models, dataset, tmp_path):
    first = run_host("flux_train_network.py", "stock", lora_args(tiny_models, dataset, tmp_path / "a"))
    again = run_host("flux_train_network.py", "stock", lora_args(tiny_models, dataset, tmp_path / "b"), record=True)
    assert first.events == []
    weights = tmp_path / "a" / "tiny.safetensors"
    assert_identical(weights, tmp_path / "b" / "tiny.safetensors")
    assert any(tensor.abs().max() > 0 for key, tensor in load_file(weights).items() if "lora_up" in key)

    assert [event["kind"] for event in again.events[0]] == ["batch", "timesteps", "backward", "step"] * 4 + ["end"]
    for batch, drawn in zip(again.of("batch"), again.of("timesteps"), strict=True):
        assert batch["loader"] == 0 and len(batch["captions"]) == batch["shape"][0] == len(drawn["timesteps"])
        assert drawn["shape"][2:] == tuple(side // 8 for side in batch["shape"][2:])
        for caption, attributes in zip(batch["captions"], batch["custom_attributes"], strict=True):
            assert caption.split()[1] == attributes["granularity"]
        assert ((drawn["timesteps"] > 0) & (drawn["timesteps"] < 1000)).all()
        assert drawn["grad"] and drawn["loader"] == 0
        torch.testing.assert_close(drawn["timesteps"], drawn["sigmas"] * 1000)
    for backward, step in zip(again.of("backward"), again.of("step"), strict=True):
        assert math.isfinite(backward["loss"])
        assert all(map(torch.equal, backward["grads"], step["grads"]))


def test_gradients_of_accumulated_batches_add_up(run_host, tiny_models, tmp_path):
    dataset = write_plain_dataset(tmp_path / "data", count=8, sizes=SQUARE)
    args = lora_args(tiny_models, dataset, tmp_path, gradient_accumulation_steps=2, max_train_steps=2)
    run = run_host("flux_train_network.py", "stock", args, record=True)
    kinds = ["batch", "timesteps", "backward", "batch", "timesteps", "backward", "step"]
    assert [event["kind"] for event in run.events[0]] == [*kinds * 2, "end"]
    for number, step in enumerate(run.of("step")):
        one, two = run.of("backward")[2 * number : 2 * number + 2]
        for a, b, total in zip(one["grads"], two["grads"], step["grads"], strict=True):
            torch.testing.assert_close((a + b) / 2, total)


def test_stock_finetune_trains_every_layer(run_host, tiny_models, dataset, tmp_path):
    args = finetune_args(tiny_models, dataset, tmp_path, max_train_steps=2)
    run = run_host("flux_train.py", "stock", args, record=True)
    assert [event["kind"] for event in run.events[0]] == ["batch", "timesteps", "backward", "step"] * 2 + ["end"]
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in run.of("step")[0]["grads"])
    assert load_file(tmp_path / "tiny.safetensors").keys() == load_file(tiny_models["flux"]).keys()


def test_two_processes_average_their_gradients(run_host, tiny_models, dataset, tmp_path):
    """The full fine-tune, because stock LoRA dies here: accelerate wraps the frozen flow model in DDP."""
    args = finetune_args(tiny_models, dataset, tmp_path, max_train_steps=2)
    run = run_host("flux_train.py", "stock", args, record=True, nproc=2)
    for step in range(2):
        ranks = [run.of("backward", rank)[step]["grads"] for rank in (0, 1)]
        handed = [run.of("step", rank)[step]["grads"] for rank in (0, 1)]
        for a, b, one, two in zip(*ranks, *handed, strict=True):
            assert torch.equal(one, two)
            torch.testing.assert_close((a + b) / 2, one)


def test_stock_dora_trains(run_host, tiny_models, dataset, tmp_path):
    run_host("flux_train_network.py", "stock", dora_args(tiny_models, dataset, tmp_path, max_train_steps=2))
    with safe_open(tmp_path / "tiny.safetensors", "pt") as file:
        assert any(key.endswith("dora_scale") for key in file.keys())  # noqa: SIM118 (a safe_open is not iterable)
        assert file.metadata()["ss_network_module"] == "lycoris.kohya"


@pytest.mark.parametrize(("bypass", "trains"), [(False, False), (True, True)])
def test_stock_lycoris_over_weights_of_8_bits_dies_unless_it_bypasses_them(
    run_host, tiny_models, dataset, tmp_path, bypass, trains
):
    """What hosts.checks.fp8_problems refuses beforehand, and its remedy."""
    network = {"fp8_base": True, "network_args": ["algo=lora", "preset=attn-mlp", f"bypass_mode={bypass}"]}
    args = dora_args(tiny_models, dataset, tmp_path, max_train_steps=1, mixed_precision="bf16", **network)
    run = run_host("flux_train_network.py", "stock", args, check=False)
    assert (run.returncode == 0) == trains == ("Float8" not in run.output), run.output[-3000:]


def test_stock_lora_on_other_versions(run_host, tiny_models, other_checkout, tmp_path):
    dataset = write_plain_dataset(tmp_path / "data", count=4)
    args = lora_args(tiny_models, dataset, tmp_path, max_train_steps=2)
    run = run_host("flux_train_network.py", "stock", args, record=True, checkout=other_checkout)
    assert len(run.of("timesteps")) == len(run.of("step")) == 2
    assert (tmp_path / "tiny.safetensors").exists()
