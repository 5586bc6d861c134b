"""Seam: noise levels follow the granularity (Eq. 29-31), for DiTs that sample through FLUX's function.

The host samples in its own way; then sigma moves by Delta in logit space and the sample is re-noised. Every mode of the
host is additive in logit space, so this equals Eq. 30-31 in each. Outside a training step nothing changes.
"""

import argparse
import functools
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sga_kohya.equations.timesteps import renoise, resolution_mu, shift_logit
from sga_kohya.seams.host import Seam
from sga_kohya.seams.session import Session
from sga_kohya.tuples.step import SubBatch

logger = logging.getLogger(__name__)


def _replace(original: Callable, session: Session) -> Callable:
    table = session.config.timestep_shift

    @functools.wraps(original)
    def get_noisy_model_input_and_timesteps(
        args: argparse.Namespace,
        noise_scheduler: Any,
        latents: Tensor,
        noise: Tensor,
        device: torch.device,
        dtype: torch.dtype,
        *more: Any,
        **options: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        delta = None
        if session.current is not None:
            session.fire("timesteps")
            delta = _deltas(session.current, table, options.get("timestep_sampling_offset"))
        if delta is None or not delta.any():
            return original(args, noise_scheduler, latents, noise, device, dtype, *more, **options)
        # float32 until the end, so that a bf16 run rounds once, as stock does.
        call = original(args, noise_scheduler, latents, noise, device, torch.float32, *more, **options)
        noisy, _, sigmas = call
        delta = delta.view(sigmas.shape).to(sigmas.device)
        noisy = renoise(noisy, latents, sigmas, delta)
        sigmas = shift_logit(sigmas, delta)
        timesteps = sigmas.flatten() * noise_scheduler.config.num_train_timesteps
        return noisy.to(dtype), timesteps.to(dtype), sigmas

    return get_noisy_model_input_and_timesteps


def _deltas(sub_batch: SubBatch, table: Mapping[str, float], hosts: Any) -> Tensor:
    """Delta of each sample, (B,). hosts: upstream's per-sample offsets or None; where one is set, it alone counts.

    On the CPU, so that asking whether there is any Delta does not wait for the GPU.
    """
    delta = torch.tensor([table.get(label or "", 0.0) for label in sub_batch.granularities])
    if hosts is not None:
        taken = torch.as_tensor(hosts, device=delta.device) != 0
        if bool((taken & (delta != 0)).any()):
            _announce_hosts_offset()
        delta = torch.where(taken, torch.zeros_like(delta), delta)
    return delta


@functools.cache
def _announce_hosts_offset() -> None:
    logger.warning(
        "subsets with custom_attributes timestep_sampling.offset keep sd-scripts' own offset; "
        "sga_timestep_shift applies to the other subsets only"
    )


def noise_level(args: argparse.Namespace, quantile: Tensor, delta: float, bucket: tuple[int, int]) -> Tensor:
    """The quantile of the noise level that training will use at Delta = delta, in closed form.

    args: the host's. quantile: (...), in (0, 1). bucket: (width, height) in pixels. Returns sigma (...), in (0, 1).
    """
    return torch.sigmoid(_hosts_logit(args, quantile, bucket) + delta)


def _hosts_logit(args: argparse.Namespace, quantile: Tensor, bucket: tuple[int, int]) -> Tensor:
    normal = torch.special.ndtri(quantile)
    if args.timestep_sampling == "uniform":
        return torch.logit(quantile)
    if args.timestep_sampling == "sigmoid":
        return args.sigmoid_scale * normal
    if args.timestep_sampling == "shift":
        return args.sigmoid_scale * normal + math.log(args.discrete_flow_shift)
    if args.timestep_sampling == "flux_shift":
        width, height = bucket
        return args.sigmoid_scale * normal + resolution_mu(height // 8, width // 8)
    # "sigma": a density over the scheduler's table, which runs from noise to data and holds the shift.
    shift = math.log(args.discrete_flow_shift)
    if args.weighting_scheme == "logit_normal":
        return args.logit_std * normal - args.logit_mean + shift
    if args.weighting_scheme == "mode":
        bump = torch.cos(math.pi / 2 * quantile) ** 2 - 1 + quantile
        return torch.logit(quantile + args.mode_scale * bump) + shift
    return torch.logit(quantile) + shift


SEAM = Seam(
    "timesteps",
    "library.flux_train_utils.get_noisy_model_input_and_timesteps",
    ("args", "noise_scheduler", "latents", "noise", "device", "dtype"),
    _replace,
)
