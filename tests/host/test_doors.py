"""Every door beside FLUX's own on the real sd-scripts: Eq. 6 for its optimizer, Eq. 29-33 for its noise and weights."""

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from sga_kohya.launch import SCRIPTS

from . import matrix
from .data import LEVELS, write_dataset
from .doors import DOORS, SNR, Door
from .test_sga import of, slices, steps
from .tiny_flux import lora_args

DELTA = {"macro": 0.5, "meso": 0.0, "micro": -0.5}
GAMMA = {"macro": 4.0, "meso": 5.0, "micro": 7.0}
NEW = [door for door in DOORS if door.model or not door.script.startswith("flux")]
SHIFTED = [door for door in NEW if door.modulation != SNR]
UNETS = [door for door in NEW if door.modulation == SNR]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", [LEVELS, LEVELS, ("macro", "micro")])


def name(door: Door) -> str:
    return door.name


def assert_optimizer_got_eq_6(run) -> None:
    seen = set()
    for events in steps(run):
        pairs = list(zip(of(events, "batch"), of(events, "backward"), strict=True))
        levels = {level for batch, _ in pairs for _, level in slices([batch])}
        seen.add(len(levels))
        expected = [0.0] * len(events[-1]["grads"])
        for batch, back in pairs:
            (level,) = {level for _, level in slices([batch])}
            count = sum(len(other["captions"]) for other, _ in pairs if slices([other])[0][1] == level)
            share = len(batch["captions"]) / count / len(levels)
            expected = [
                total if grad is None else total + share * grad.double()
                for total, grad in zip(expected, back["grads"], strict=True)
            ]
        for ours, handed in zip(expected, events[-1]["grads"], strict=True):
            if handed is None:
                assert isinstance(ours, float)
            else:
                torch.testing.assert_close(handed.double(), ours + torch.zeros_like(handed), rtol=1e-4, atol=1e-7)
    assert seen == {2, 3}


def assert_saved_by_sga(out: Path, door: Door) -> None:
    with safe_open(out / "tiny.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_sga_modulated_by"] == door.modulation
    assert metadata["ss_sga_groups_by_k"] == "3:2,2:1"


@pytest.mark.parametrize("door", SHIFTED, ids=name)
def test_flow_matching_doors(run_host, tiny_models, dataset, tmp_path, door):
    runs = {}
    for modulation in ("true", "false"):
        options = {"max_train_epochs": 1, "sga_modulation": modulation}
        arguments = door.arguments(tiny_models, dataset, tmp_path / modulation, **options)
        runs[modulation] = run_host(door.script, "sga", arguments, record=True)
    assert_optimizer_got_eq_6(runs["true"])
    assert_saved_by_sga(tmp_path / "true", door)
    compared = set()
    for moved, base, batch in zip(*(runs[m].of("timesteps") for m in runs), runs["true"].of("batch"), strict=True):
        level = slices([batch])[0][1]
        difference = torch.logit(moved["sigmas"].double()) - torch.logit(base["sigmas"].double())
        torch.testing.assert_close(difference, torch.full_like(difference, DELTA[level]), rtol=0, atol=1e-4)
        torch.testing.assert_close(moved["timesteps"].float(), moved["sigmas"].float() * 1000)
        compared.add(level)
    assert compared == set(LEVELS)


@pytest.mark.parametrize("door", UNETS, ids=name)
def test_unet_doors(run_host, tiny_models, dataset, tmp_path, door):
    arguments = door.arguments(tiny_models, dataset, tmp_path, max_train_epochs=4)
    run = run_host(door.script, "sga", arguments, record=True)
    assert "Gamma   weight of the loss at t" in run.output
    assert_optimizer_got_eq_6(run)
    assert_saved_by_sga(tmp_path, door)
    clamped = set()
    for batch, drawn, back in zip(run.of("batch"), run.of("timesteps"), run.of("backward"), strict=True):
        gamma = torch.tensor([GAMMA[level] for _, level in slices([batch])])
        weight = (gamma / snr(drawn["timesteps"])).clamp(max=1)
        torch.testing.assert_close(back["loss"], (weight * back["losses"]).mean(), rtol=1e-4, atol=1e-6)
        clamped |= {bool(value < 1) for value in weight}
    assert clamped == {True, False}


def snr(timesteps: torch.Tensor) -> torch.Tensor:
    """Of Stable Diffusion's schedule, from its published numbers."""
    beta = torch.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000, dtype=torch.float64).square()
    alpha_bar = (1 - beta).cumprod(0)[timesteps]
    return (alpha_bar / (1 - alpha_bar)).float()


def test_flow_snr_weight_follows_the_recorded_noise_levels(run_host, tiny_models, dataset, tmp_path):
    """Against a run without it, at a rate of next to nothing, so that both have the same model."""
    found = {}
    for weighted in ("true", "false"):
        options = {"max_train_steps": 3, "learning_rate": 1e-12, "sga_flow_snr_weight": weighted}
        options |= {"timestep_sampling": "shift", "discrete_flow_shift": 0.7}
        arguments = lora_args(tiny_models, dataset, tmp_path / weighted, **options)
        found[weighted] = run_host("flux_train_network.py", "sga", arguments, record=True)
    seen = set()
    on, off = (run.of("backward") for run in found.values())
    drawn_for = zip(found["true"].of("batch"), found["true"].of("timesteps"), on, off, strict=True)
    for batch, drawn, ours, plain in drawn_for:
        gamma = torch.tensor([GAMMA[level] for _, level in slices([batch])])
        weight = (gamma * (drawn["sigmas"] / (1 - drawn["sigmas"])).square()).clamp(max=1)
        torch.testing.assert_close(ours["losses"], weight * plain["losses"], rtol=1e-4, atol=1e-6)
        seen |= {bool(value < 1) for value in weight}
    assert seen == {True, False}


def test_what_a_dataset_toml_gets_wrong_is_one_line_before_any_model_is_loaded(
    run_host, tiny_models, dataset, tmp_path
):
    dataset.write_text(dataset.read_text().replace("num_repeats = 1", 'num_repeats = "1"\ncaption_extention = 1', 1))
    run = run_host("flux_train_network.py", "sga", lora_args(tiny_models, dataset, tmp_path), check=False)
    assert run.returncode == 2 and "Traceback" not in run.output and "Building AutoEncoder" not in run.output
    told, place = run.output.strip().splitlines()[-1], "datasets.1.subsets.1."
    assert told.startswith(f"sga_kohya: error: --dataset_config {dataset}: ")
    assert f'{place}num_repeats = "1": write a whole number' in told
    assert f"{place}caption_extention: sd-scripts knows no such key there; did you mean caption_extension?" in told


@pytest.mark.parametrize("door", [DOORS[0], UNETS[0]], ids=name)
def test_show_timesteps_draws_and_ends_before_any_model_is_loaded(run_host, tiny_models, dataset, tmp_path, door):
    picture = tmp_path / "levels.png"
    options = {"sga_show_timesteps": picture, "ae" if door.script.startswith("flux") else "vae": "/nowhere.safetensors"}
    run = run_host(door.script, "sga", door.arguments(tiny_models, dataset, tmp_path, **options))
    assert f"written to {picture}; nothing was trained" in run.output
    shown = [line.split() for line in run.output.splitlines() if line.split()[:1] and line.split()[0] in LEVELS]
    assert {row[0] for row in shown} == set(LEVELS)
    with Image.open(picture) as image:
        assert image.width > 600 and len(image.convert("RGB").getcolors(1 << 20)) > 10
    assert not (tmp_path / "tiny.safetensors").exists()


def test_the_readme_s_table_is_that_of_the_last_version_matrix():
    results = json.loads(matrix.RESULTS.read_text(encoding="utf-8"))
    readme = matrix.README.read_text(encoding="utf-8")
    assert matrix.as_markdown(results) in readme, "run python tests/host/matrix.py --write-readme"
    assert set(results["doors"]) == {door.name for door in DOORS}
    assert {door.script for door in DOORS} == set(SCRIPTS)
