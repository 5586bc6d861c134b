"""Seams: each function by which a trainer draws noise levels and mixes the noise in.

They translate: what is drawn becomes a `Noised` batch, what the parts make of it goes back. Where no part moves the
batch, the host's own function has the last word, with the host's own types.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sga_kohya.equations.interference import GaussianPath, diffusion_path, flow_path
from sga_kohya.hosts.sd_scripts.families import FAMILIES, NORMAL_MODES
from sga_kohya.hosts.seam import Seam
from sga_kohya.training.events import Draw, Noised
from sga_kohya.training.session import Session


def _replace_flux(original: Callable, session: Session, sign: int = 1) -> Callable:
    """FLUX's form, which Chroma, Anima and HunyuanImage call as well; Lumina has one of the same form.

    sign: 1 where the trainers' target is noise - latents, -1 where it is latents - noise.
    """

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
        offsets = _offsets(args, options.get("timestep_sampling_offset"))
        draw = Draw(session.current, getattr(args, "sigmoid_scale", 1.0), offsets)
        moves = session.moves(draw)
        # float32 until the end, so that a bf16 run rounds once, as stock does.
        precision = torch.float32 if moves else dtype
        noisy, timesteps, sigmas = original(args, noise_scheduler, latents, noise, device, precision, *more, **options)
        target = sign * (noise - latents) if session.listens("compared") else None
        sigma = sigmas.flatten()
        raw = getattr(args, "model_prediction_type", "raw") == "raw"
        batch = Noised(draw, latents, noise, noisy, sigma, target, sign, path=flow_path if raw else None)
        batch = session.noised(batch)
        if not moves:
            return noisy, timesteps, sigmas
        if batch.sigma is not sigma:
            timesteps = batch.sigma * noise_scheduler.config.num_train_timesteps
        return _own(batch.x, dtype), timesteps.to(dtype), batch.column(batch.sigma)

    return get_noisy_model_input_and_timesteps


def _replace_lumina(original: Callable, session: Session) -> Callable:
    """Lumina's time and its velocity run the other way."""
    return _replace_flux(original, session, sign=-1)


def _replace_sd3(original: Callable, session: Session) -> Callable:
    """SD3 draws whole timesteps, within min_timestep and max_timestep where they are set, and adds no other noise.

    Its trainers turn the velocity into clean latents, prediction * -sigma + noisy, and compare those. For a part that
    compares velocities -1 stands in place of sigma: their sum is then prediction + noisy, from which the part takes the
    velocity back. They use these sigmas for nothing else but weights that are refused with such a part.
    """

    @functools.wraps(original)
    def get_noisy_model_input_and_timesteps(
        args: argparse.Namespace, latents: Tensor, noise: Tensor, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        low, high = (args.min_timestep or 0), (1000 if args.max_timestep is None else args.max_timestep)
        draw = Draw(session.current, low=low / 1000, high=high / 1000)
        moves, compares = session.moves(draw), session.listens("compared")
        noisy, timesteps, sigmas = original(args, latents, noise, device, torch.float32 if moves else dtype)
        target = latents.clone() if compares else None
        batch = session.noised(Noised(draw, latents, noise, noisy, sigmas.flatten(), target))
        if not moves:
            return noisy, timesteps, sigmas
        noisy = _own(batch.x, torch.promote_types(dtype, noise.dtype))
        if compares:
            batch.offset = noisy.detach().clone()
            return noisy, (batch.sigma * 1000).to(dtype), torch.full_like(sigmas, -1)
        return noisy, (batch.sigma * 1000).to(dtype), batch.column(batch.sigma)

    return get_noisy_model_input_and_timesteps


def _replace_unet(original: Callable, session: Session) -> Callable:
    """A U-Net's modulation is a weight, see loss.py. Noise levels are shares of its timesteps, to whole ones."""

    @functools.wraps(original)
    def get_noise_noisy_latents_and_timesteps(
        args: argparse.Namespace, noise_scheduler: Any, latents: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        noise, noisy, timesteps = original(args, noise_scheduler, latents)
        count = noise_scheduler.config.num_train_timesteps
        sigma = timesteps / count

        def steps(sigma: Tensor) -> Tensor:
            return (sigma * count).round().long().clamp(max=count - 1)

        def path(sigma: Tensor) -> GaussianPath:
            return diffusion_path(noise_scheduler.alphas_cumprod.cpu()[steps(sigma.cpu())], args.v_parameterization)

        draw = Draw(session.current, weighted=True)
        batch = session.noised(Noised(draw, latents, noise, noisy, sigma, path=path))
        if batch.sigma is sigma:
            return noise, noisy, timesteps
        return batch.noise, _own(batch.x, noisy.dtype), steps(batch.sigma)

    return get_noise_noisy_latents_and_timesteps


def _offsets(args: argparse.Namespace, offsets: Any) -> Tensor | None:
    """Upstream's own per-sample offsets, None where its mode does not heed them."""
    heeded = offsets is not None and args.timestep_sampling in NORMAL_MODES
    return torch.as_tensor(offsets) if heeded else None


def _own(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of the host's own, because it asks for its gradient where checkpointing needs that."""
    return x.to(dtype, copy=True)


_NAME = "get_noisy_model_input_and_timesteps"
_FLUX_PARAMETERS = ("args", "noise_scheduler", "latents", "noise", "device", "dtype")
FLUX = Seam("noise", f"library.flux_train_utils.{_NAME}", _FLUX_PARAMETERS, _replace_flux)
LUMINA = Seam("Lumina noise", f"library.lumina_train_util.{_NAME}", _FLUX_PARAMETERS, _replace_lumina)
SD3 = Seam(
    "SD3 noise", f"library.sd3_train_utils.{_NAME}", ("args", "latents", "noise", "device", "dtype"), _replace_sd3
)
UNET = Seam(
    "U-Net noise",
    "library.train_util.get_noise_noisy_latents_and_timesteps",
    ("args", "noise_scheduler", "latents"),
    _replace_unet,
)
SEAMS = (FLUX, LUMINA, SD3, UNET)


def seams_of(script: str) -> list[Seam]:
    """Those of the family that a script trains, so that other families' models are not imported; "": all."""
    samplers = [f"{family.sampler}." for family in FAMILIES if script in family.trainers]
    return [seam for seam in SEAMS if not samplers or seam.target.startswith(tuple(samplers))]
