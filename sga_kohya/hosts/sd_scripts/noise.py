"""Seams: noise levels follow the granularity (Eq. 29-31), in each function by which a trainer samples them.

The host samples in its own way; then sigma moves by Delta in logit space and the sample is re-noised. Every mode of the
host is additive in logit space, so this equals Eq. 30-31 in each. Outside a training step nothing changes. A U-Net's
noise levels are only noted: its modulation is a weight, see snr.py.
"""

import argparse
import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sga_kohya.equations.timesteps import renoise, shift_logit
from sga_kohya.hosts.sd_scripts.families import NORMAL_MODES
from sga_kohya.hosts.seam import Seam
from sga_kohya.training.session import Session

logger = logging.getLogger(__name__)


def _replace_flux(original: Callable, session: Session) -> Callable:
    """FLUX's form, which Chroma, Anima and HunyuanImage call as well; Lumina has one of the same form."""

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
        delta = _delta(session, args, options.get("timestep_sampling_offset"))
        if delta is None:
            result = original(args, noise_scheduler, latents, noise, device, dtype, *more, **options)
        else:
            # float32 until the end, so that a bf16 run rounds once, as stock does.
            call = original(args, noise_scheduler, latents, noise, device, torch.float32, *more, **options)
            noisy, _, sigmas = call
            delta = delta.view(sigmas.shape).to(sigmas.device)
            noisy = renoise(noisy, latents, sigmas, delta)
            sigmas = shift_logit(sigmas, delta)
            timesteps = sigmas.flatten() * noise_scheduler.config.num_train_timesteps
            result = noisy.to(dtype), timesteps.to(dtype), sigmas
        _note(session, result[2])
        return result

    return get_noisy_model_input_and_timesteps


def _replace_sd3(original: Callable, session: Session) -> Callable:
    """SD3 draws whole timesteps, within min_timestep and max_timestep where they are set, and adds no other noise."""

    @functools.wraps(original)
    def get_noisy_model_input_and_timesteps(
        args: argparse.Namespace, latents: Tensor, noise: Tensor, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        low = (args.min_timestep or 0) / 1000
        span = (1000 if args.max_timestep is None else args.max_timestep) / 1000 - low
        delta = _delta(session, args) if span > 0 else None
        result = original(args, latents, noise, device, dtype if delta is None else torch.float32)
        if delta is not None:
            sigmas = result[2]
            sigmas = low + span * shift_logit((sigmas - low) / span, delta.view(sigmas.shape).to(sigmas.device))
            noisy = sigmas * noise + (1 - sigmas) * latents
            result = noisy.to(torch.promote_types(dtype, noise.dtype)), (sigmas.flatten() * 1000).to(dtype), sigmas
        _note(session, result[2])
        return result

    return get_noisy_model_input_and_timesteps


def _replace_unet(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def get_noise_noisy_latents_and_timesteps(
        args: argparse.Namespace, noise_scheduler: Any, latents: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        result = original(args, noise_scheduler, latents)
        _note(session, result[2] / noise_scheduler.config.num_train_timesteps)
        return result

    return get_noise_noisy_latents_and_timesteps


def _note(session: Session, sigmas: Tensor) -> None:
    """Tell the session's other seams the noise levels of this training batch."""
    if session.current is not None:
        session.fire("timesteps")
        session.noise_level = sigmas.detach().flatten()


def _delta(session: Session, args: argparse.Namespace, hosts: Any = None) -> Tensor | None:
    """What moves each sample's logit, (B,), or None where nothing moves.

    hosts: upstream's per-sample offsets or None; where one is set and the mode heeds it, it alone counts.
    On the CPU, so that asking whether there is any Delta does not wait for the GPU.
    """
    config, sub_batch = session.config, session.current
    if sub_batch is None or not config.modulation:
        return None
    delta = torch.tensor([config.timestep_shift.get(label or "", 0.0) for label in sub_batch.granularities])
    if config.timestep_shift_form == "upstream":
        delta = delta * args.sigmoid_scale  # sigmoid(s * (z + Delta)); family.py has refused modes without an s
    if hosts is not None and args.timestep_sampling in NORMAL_MODES:
        taken = torch.as_tensor(hosts, device=delta.device) != 0
        if bool((taken & (delta != 0)).any()):
            _announce_hosts_offset()
        delta = torch.where(taken, torch.zeros_like(delta), delta)
    return delta if delta.any() else None


@functools.cache
def _announce_hosts_offset() -> None:
    logger.warning(
        "subsets with custom_attributes timestep_sampling.offset keep sd-scripts' own offset; "
        "sga_timestep_shift applies to the other subsets only"
    )


_NAME = "get_noisy_model_input_and_timesteps"
_FLUX_PARAMETERS = ("args", "noise_scheduler", "latents", "noise", "device", "dtype")
FLUX = Seam("timesteps", f"library.flux_train_utils.{_NAME}", _FLUX_PARAMETERS, _replace_flux)
LUMINA = Seam("Lumina timesteps", f"library.lumina_train_util.{_NAME}", _FLUX_PARAMETERS, _replace_flux)
SD3 = Seam(
    "SD3 timesteps", f"library.sd3_train_utils.{_NAME}", ("args", "latents", "noise", "device", "dtype"), _replace_sd3
)
UNET = Seam(
    "U-Net timesteps",
    "library.train_util.get_noise_noisy_latents_and_timesteps",
    ("args", "noise_scheduler", "latents"),
    _replace_unet,
)
SEAMS = (FLUX, LUMINA, SD3, UNET)
