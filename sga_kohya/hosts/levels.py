"""Noise levels as a trainer's own function draws them and our parts move them; see training/host.py."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor

from sga_kohya.config import SgaConfig
from sga_kohya.training.events import Run
from sga_kohya.training.host import Size
from sga_kohya.training.session import Session
from sga_kohya.tuples.randomness import isolated
from sga_kohya.tuples.step import SubBatch
from sga_kohya.words import LINEAR, TIMESTEP_SHIFT


def drawn_levels(
    config: SgaConfig,
    label: str | None,
    count: int,
    latent_size: Size,
    draw: Callable[[Session, Tensor], object],
) -> Tensor:
    """Sigma of a granularity's samples, (count,). All random numbers go on as if nothing had been drawn.

    draw: what the seam makes of the trainer's function, called with latents that have no channels, (count, 0, H, W):
    it reads sizes only.
    """
    session = Session(replace(config, path=LINEAR))  # whose points need channels; levels are the same
    session.started(Run(TIMESTEP_SHIFT))
    session.accelerator = SimpleNamespace(current=SubBatch(0, (), (label,) * count))  # type: ignore[assignment]
    width, height = latent_size
    with isolated(("levels",)):
        draw(session, torch.empty(count, 0, height, width))
    assert session.batch is not None
    return session.batch.sigma
