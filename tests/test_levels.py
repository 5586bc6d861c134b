"""What is drawn for a table of noise levels costs a training no random number, on any device."""

import random

import numpy as np
import torch

from sga_kohya.config import SgaConfig
from sga_kohya.hosts.levels import drawn_levels
from sga_kohya.training.events import Draw, Noised


def draw(session, latents):
    """Of every source that a host may draw from."""
    random.random()
    np.random.rand()
    sigma = torch.rand(len(latents))
    session.noised(Noised(Draw(session.current, 1.0), latents, latents, latents, sigma))


def numbers() -> list[float]:
    return [random.random(), np.random.rand(), torch.rand(()).item()]


def test_random_numbers_go_on_as_if_nothing_had_been_drawn(monkeypatch):
    expected = numbers()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    first, again = (drawn_levels(SgaConfig(), "macro", 5, (8, 8), draw) for _ in range(2))
    assert numbers() == expected and torch.equal(first, again)
    assert not seeded, "a card's generator would go on from another seed than the host has given it"
