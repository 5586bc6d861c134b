"""The model of a run by its options: from scratch, or an adapter on a local diffusers folder."""

from typing import Any

import torch

from sga_kohya.errors import SgaError
from sga_kohya.reference.latents import PooledPixels, load_vae
from sga_kohya.reference.options import RunOptions
from sga_kohya.reference.precision import weight_dtype
from sga_kohya.reference.published import family_in, load
from sga_kohya.reference.scheduler import PathScheduler
from sga_kohya.reference.scratch import build
from sga_kohya.reference.stack import Stack


def make_stack(options: RunOptions, path: str = "linear") -> Stack:
    """The model of a run, its weights and adapter seeded. path: of equations/paths.py, for flow matching."""
    schedule, dtype = _schedule(options, path), weight_dtype(options.mixed_precision)
    torch.manual_seed(options.seed)
    codec = load_vae(options.vae, dtype) if options.vae else None
    if options.model is None:
        stack = build(options.arch, codec or PooledPixels(options.pool), options.width, options.depth, schedule)
        stack.denoiser.dtype = dtype  # its weights are trained, so they stay float32
    else:
        stack = load(options.arch, options.model, schedule, codec, options.pool, dtype)
        stack.denoiser.add_adapter(options.network_dim, options.network_alpha)
    if options.gradient_checkpointing:
        stack.denoiser.recompute()
    if path != "linear":
        stack.scheduler = PathScheduler.from_config(stack.scheduler.config, path=path)
    return stack


def learns_flow(options: RunOptions) -> bool:
    """Whether the model of a run learns a velocity. Raises SgaError if --model cannot be trained."""
    return options.arch == "dit" if options.model is None else family_in(options.arch, options.model).flow


def _schedule(options: RunOptions, path: str) -> dict[str, Any]:
    """What the user asked of a noise schedule. Raises SgaError for what the run's kind of model does not have."""
    flow, model = learns_flow(options), f"--model {options.model}" if options.model else f"--arch {options.arch}"
    if path != "linear" and not flow:
        other = " and another --model" if options.model and options.arch == "dit" else ""
        raise SgaError(f"--path {path} is for flow matching: use it with --arch dit{other}")
    schedule: dict[str, Any] = {"prediction_type": options.prediction} if options.prediction else {}
    if options.zero_terminal_snr:
        schedule["rescale_betas_zero_snr"] = True
    if flow and schedule:
        words = [f"--prediction {options.prediction}"] * bool(options.prediction)
        words += ["--zero_terminal_snr"] * options.zero_terminal_snr
        verb = "are" if len(words) > 1 else "is"
        raise SgaError(
            f"{' and '.join(words)} {verb} for a model with a noise schedule, and {model} learns the velocity of a "
            f"flow: leave {'them' if len(words) > 1 else 'it'} out, or train a U-Net by --arch unet"
        )
    return schedule
