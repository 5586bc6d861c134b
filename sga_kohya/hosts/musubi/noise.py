"""Seams: each method by which a trainer draws noise levels and mixes the noise in.

They return noisy latents and timesteps, but no noise level, and a noise level computed back from timesteps would lose
bits. So the latents get one more channel, of zeros, and the noise one of ones: what comes back in it is the noise
level itself, while all other channels and all random numbers are those of the host.
"""

import argparse
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sga_kohya.errors import SgaError
from sga_kohya.hosts.seam import Seam
from sga_kohya.training.events import Draw, Noised
from sga_kohya.training.session import Session


def _replace(original: Callable, session: Session) -> Callable:
    """The base method, which every family reaches in every mode but HiDream-O1's `uniform`."""

    @functools.wraps(original)
    def get_noisy_model_input_and_timesteps(
        self: Any, args: argparse.Namespace, noise: Tensor, latents: Tensor, *more: Any
    ) -> tuple[Tensor, Tensor]:
        channel = (len(noise), 1, *noise.shape[2:])
        told = torch.cat([noise, noise.new_ones(channel)], dim=1)
        kept = torch.cat([latents, latents.new_zeros(channel)], dim=1)
        mixed, steps = original(self, args, told, kept, *more)
        noisy, sigma = mixed[:, :-1].contiguous(), mixed[:, -1].flatten(1)[:, 0].float()
        batch = session.noised(Noised(_draw(session, args, sigma), latents, noise, noisy, sigma))
        if batch.sigma is sigma:
            return noisy, steps
        # Some families undo the host's offset of one timestep, each in its way, so it stays as it is.
        return batch.x.to(noisy.dtype), steps + 1000 * (batch.sigma - sigma).to(steps)

    return get_noisy_model_input_and_timesteps


def _replace_wan(original: Callable, session: Session) -> Callable:
    """With two models Wan draws sample by sample, and again where a level is the other model's: all of them count."""

    @functools.wraps(original)
    def get_noisy_model_input_and_timesteps(
        self: Any, args: argparse.Namespace, noise: Tensor, latents: Tensor, *more: Any
    ) -> tuple[Tensor, Tensor]:
        noisy, steps = original(self, args, noise, latents, *more)
        if session.batch is not None and len(session.batch.sigma) != len(steps):
            offset = 0.0 if args.timestep_sampling == "sigma" else 1.0
            session.batch = replace(session.batch, sigma=(steps.float() - offset) / 1000)
        return noisy, steps

    return get_noisy_model_input_and_timesteps


def _replace_hidream(original: Callable, session: Session) -> Callable:
    """Mode `uniform` draws its levels by itself, unless it is given some: it is given ours, drawn as it does."""

    @functools.wraps(original)
    def get_noisy_model_input_and_timesteps(
        self: Any, args: argparse.Namespace, noise: Tensor, latents: Tensor, timesteps: Any, *more: Any
    ) -> tuple[Tensor, Tensor]:
        own = args.timestep_sampling == "uniform" and not getattr(args, "preserve_distribution_shape", False)
        if own and session.current is not None:
            _scheduler, device, dtype = more
            timesteps = _moved_uniform(session, args, noise, timesteps, device, dtype)
        return original(self, args, noise, latents, timesteps, *more)

    return get_noisy_model_input_and_timesteps


def _moved_uniform(
    session: Session, args: argparse.Namespace, noise: Tensor, given: Any, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Levels within the range that the host scales them to, (B,), in [0, 1]."""
    drawn = given is None
    level = torch.rand((len(noise),), device=device, dtype=dtype) if drawn else torch.as_tensor(given, device=device)
    low, high = _range(args)
    sigma, empty = low + (high - low) * level.float(), noise[:, :0]
    batch = session.noised(Noised(_draw(session, args, sigma), empty, empty, empty, sigma))
    return level if batch.sigma is sigma else ((batch.sigma - low) / (high - low)).to(level)


def _range(args: argparse.Namespace) -> tuple[float, float]:
    """What min_timestep and max_timestep make of sigma. In mode `sigma` they are places in a schedule that falls."""
    low = (getattr(args, "min_timestep", None) or 0) / 1000
    named = getattr(args, "max_timestep", None)
    high = 1.0 if named is None else named / 1000
    return (1 - high, 1 - low) if args.timestep_sampling == "sigma" else (low, high)


def _draw(session: Session, args: argparse.Namespace, sigma: Tensor) -> Draw:
    """sigma: (B,), as drawn: of fewer samples than the sub-batch has where a script draws them one by one."""
    count, sub_batch = len(sigma), session.current
    low, high = _range(args)
    if (low, high) != (0.0, 1.0):
        # A level may lie outside: by rounding, or because the host found none inside.
        low, high = min(low, sigma.min().item()), max(high, sigma.max().item())
    if sub_batch is not None and len(sub_batch.granularities) != count:
        labels = set(sub_batch.granularities)
        if len(labels) > 1:
            raise SgaError(
                "Wan with two models draws sample by sample, and this batch has several granularities: leave out "
                "--sga_tuples=false, or give each granularity a dataset of its own"
            )
        sub_batch = replace(sub_batch, granularities=sub_batch.granularities[:1] * count)
    return Draw(sub_batch, args.sigmoid_scale, low=low, high=high)


_NAME = "get_noisy_model_input_and_timesteps"
_PARAMETERS = ("self", "args", "noise", "latents", "timesteps", "noise_scheduler", "device", "dtype")
BASE = Seam("noise", f"musubi_tuner.hv_train_network.NetworkTrainer.{_NAME}", _PARAMETERS, _replace)
OVERRIDES = {
    "WanNetworkTrainer": Seam(
        "Wan noise", f"musubi_tuner.wan_train_network.WanNetworkTrainer.{_NAME}", _PARAMETERS, _replace_wan
    ),
    "HiDreamO1NetworkTrainer": Seam(
        "HiDream-O1 noise",
        f"musubi_tuner.hidream_o1_train_network.HiDreamO1NetworkTrainer.{_NAME}",
        _PARAMETERS,
        _replace_hidream,
    ),
}
