"""examples/algorithm_2.py, which readers of the paper look for, computes what the package computes."""

import importlib.util
import random
from pathlib import Path

import pytest
import torch

from sga_kohya.config import SgaConfig
from sga_kohya.equations.timesteps import resolution_mu
from sga_kohya.equations.timesteps import sample_sigma as package_sigma
from sga_kohya.equations.weights import min_snr_weight as package_weight
from sga_kohya.tuples.groups import form_groups
from sga_kohya.tuples.planner import Planner, eq_6
from sga_kohya.tuples.step import Slice

FILE = Path(__file__).parents[1] / "examples" / "algorithm_2.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("algorithm_2", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def certain(model, z, granularity, generator):
    """A loss for each sample without random numbers, different for each granularity."""
    sigma = torch.full((len(z),), {"macro": 0.8, "meso": 0.5, "micro": 0.2}[granularity])
    return (model(z, sigma) - z).square().flatten(1).mean(dim=1)


def gradients(model):
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    return found


def planned(groups, batch_size):
    """The planner's epoch of the same groups: its steps, and the latents by key."""
    latents = {f"{number}_{name}": z for number, group in enumerate(groups) for name, z in group.items()}
    slices = (
        (Slice(0, f"{number}_{name}", name, tuple(z.shape)), str(number))
        for number, group in enumerate(groups)
        for name, z in group.items()
    )
    config = SgaConfig(loss_weight={"macro": 1.0, "meso": 2.0, "micro": 0.5})
    return Planner(form_groups(slices), [batch_size], eq_6(config), groups_per_step=5).epoch(0), latents, config


def test_the_accumulated_gradient_is_that_of_the_planner(example, monkeypatch):
    monkeypatch.setattr(example, "flow_matching_loss", certain)
    groups = example.photos(12)
    steps, latents, config = planned(groups, batch_size=3)
    granularities = [[part.granularities[0] for part in step] for step in steps]
    assert any(len(set(names)) < len(names) for names in granularities), "levels in several sub-batches are compared"
    assert len({len(set(names)) for names in granularities}) > 1, "and several K"
    monkeypatch.setattr(example, "LAMBDA", dict(config.loss_weight))
    torch.manual_seed(0)
    model = example.Toy(width=8)
    for step in steps:
        for part in step:
            z = torch.stack([latents[key] for key in part.keys])  # noqa: SIM118
            (certain(model, z, part.granularities[0], None).mean() * part.weight).backward()
        expected = gradients(model)
        numbers = {int(key.partition("_")[0]) for part in step for key in part.keys}  # noqa: SIM118
        example.tuple_step(model, [groups[number] for number in sorted(numbers)], 3, None)
        for ours, theirs in zip(gradients(model), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("granularity", ["macro", "meso", "micro"])
def test_its_equations_are_the_package_s(example, granularity):
    config = SgaConfig()
    delta = torch.full((100,), config.timestep_shift[granularity])
    mu = resolution_mu(160, 96)
    ours = example.sample_sigma(granularity, 100, 160 * 96 // 4, torch.Generator().manual_seed(3))
    torch.testing.assert_close(ours, package_sigma(delta, mu=mu, generator=torch.Generator().manual_seed(3)))
    snr = torch.tensor([0.0, 1.0, 4.5, 6.0, 100.0])
    for v_prediction in (False, True):
        expected = package_weight(snr, config.snr_gamma[granularity], v_prediction)
        torch.testing.assert_close(example.min_snr_weight(granularity, snr, v_prediction), expected)


def test_an_epoch_has_every_group_once_and_one_k_a_step(example):
    groups = example.photos(10)
    steps = example.epoch(groups, 4, random.Random(0))
    assert sorted(id(group) for step in steps for group in step) == sorted(map(id, groups))
    assert all(len({frozenset(group) for group in step}) == 1 for step in steps)


def test_the_toy_learns(example):
    torch.manual_seed(0)
    losses = example.train(example.Toy(width=8), example.photos(8), epochs=12, lr=1e-2)
    assert losses[-1] < 0.7 * losses[0]
