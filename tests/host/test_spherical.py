"""The real sd-scripts with --sga_path on the tiny FLUX: the loss, the noise levels, sample images, and off is stock."""

import importlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ..forked import python
from .conftest import start
from .data import LEVELS, write_dataset
from .test_sga import LORA, assert_same_weights
from .tiny_flux import lora_args

FAMILIES = ("sd3", "lumina", "anima", "hunyuan_image")
EXPECTED = {"sd3": 2.534, "lumina": 2.534, "anima": 2.534, "hunyuan_image": 2.483}  # E[omega^2] of 16 and 64 channels


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", [LEVELS] * 4, sizes=((128, 128),))


def test_slerp_trains_moves_noise_levels_draws_samples_and_says_so(run_host, tiny_models, dataset, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat --w 64 --h 64 --s 3 --d 1\n")
    options = {"sample_prompts": prompts, "sample_every_n_steps": 4, "mixed_precision": "bf16", "max_train_steps": 4}
    run = run_host(
        LORA, "sga", lora_args(tiny_models, dataset, tmp_path, sga_path="spherical-slerp", **options), record=True
    )
    assert "sga_path=spherical-slerp is experimental" in run.output
    assert len(list((tmp_path / "sample").glob("*.png"))) == 1
    with safe_open(tmp_path / "tiny.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_sga_path"] == "spherical-slerp"
    assert "experimental" in metadata["ss_sga_path_note"]
    # A model that has hardly begun predicts little: E[omega^2] is about 2.5, and nothing exceeds pi^2.
    losses = [event["loss"].item() for event in run.of("backward")]
    assert all(1.5 < loss < 6 for loss in losses), losses
    # Composed with the rest of SGA, whose own tests say that it works.
    assert "SGA tuple plan" in run.output
    assert metadata["ss_sga_modulated_by"] == "timestep_shift"
    assert len(losses) > len(run.of("step"))


def test_a_linear_path_is_stock_bit_for_bit(run_host, tiny_models, dataset, tmp_path):
    off = {"sga_tuples": "false", "sga_modulation": "false"}
    run_host(LORA, "stock", lora_args(tiny_models, dataset, tmp_path / "stock"))
    run_host(LORA, "sga", lora_args(tiny_models, dataset, tmp_path / "ours", sga_path="linear", **off))
    assert_same_weights(tmp_path / "stock" / "tiny.safetensors", tmp_path / "ours" / "tiny.safetensors")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_and_samples_on_a_path(run_host, dataset, tmp_path, family, monkeypatch):
    script = f"{family}_train_network.py"
    samples = family != "hunyuan_image"  # it samples in bf16 only, and its tiny model is float32
    (tmp_path / "prompts.txt").write_text("a cat --w 64 --h 64 --s 2 --d 1 --l 2\n")
    options = {
        "sga_path": "spherical-slerp",
        "sample_prompts": tmp_path / "prompts.txt" if samples else None,
        "sample_every_n_steps": 2 if samples else None,
        "max_train_steps": 2,
        "gradient_checkpointing": True,
    }
    stack = importlib.import_module(f".tiny_{family.partition('_')[0]}", __package__)
    monkeypatch.setenv("TINY_MODEL_PREDICTS_NOTHING", "1")
    run = run_host(script, "sga", stack.train_args(script, dataset, tmp_path, **options), record=True)
    # Then the loss is omega^2, whatever the latents: the noise has no direction of its own.
    losses = torch.cat([event["losses"].flatten() for event in run.of("backward")])
    assert losses.mean().item() == pytest.approx(EXPECTED[family], abs=0.12), losses
    assert len(list((tmp_path / "sample").glob("*.png"))) == samples


def test_a_decoder_for_the_sphere_is_taken_by_the_trainer(run_host, checkout, tiny_models, dataset, tmp_path):
    """The FLUX file goes through sd-scripts' own loader, our training, and sd-scripts' own loader again."""
    tool = [str(checkout), "decoder", str(tiny_models["ae"]), str(dataset.parent), str(tmp_path / "decoder")]
    options = ["--kind=flux", f"--sd_scripts={checkout}", "--resolution=64", "--batch_size=2", "--steps=2"]
    options += ["--perceptual=none", "--workers=0"]
    done = start([*python(), str(Path(__file__).with_name("run_spherical.py")), *tool, *options], tmp_path, 120)
    file = tmp_path / "decoder" / "ae.safetensors"
    assert f"saved: {file}" in done.output
    before, after = load_file(tiny_models["ae"]), load_file(file)
    assert {key: value.shape for key, value in before.items()} == {key: value.shape for key, value in after.items()}
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {key for key in before if key.startswith("decoder.")}
    models = {**tiny_models, "ae": file}
    run_host(LORA, "sga", lora_args(models, dataset, tmp_path, sga_path="spherical-slerp", max_train_steps=1))


def test_what_excludes_a_path_is_said_before_models_are_loaded(run_host, tiny_models, dataset, tmp_path):
    options = {"sga_path": "spherical-slerp", "model_prediction_type": "sigma_scaled"}
    run = run_host(LORA, "sga", lora_args(tiny_models, dataset, tmp_path, **options), check=False)
    assert run.returncode == 2
    assert "set model_prediction_type=raw" in run.output.strip().splitlines()[-1]
    assert "Building AutoEncoder" not in run.output
