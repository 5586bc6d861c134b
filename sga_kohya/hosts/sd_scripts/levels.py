"""What a run of sd-scripts will draw, by the host's own functions without a model; see training/host.py."""

import argparse
import functools
import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sga_kohya.config import SgaConfig
from sga_kohya.equations.weights import min_snr_weight
from sga_kohya.hosts.levels import drawn_levels
from sga_kohya.hosts.memory import question
from sga_kohya.hosts.sd_scripts import noise
from sga_kohya.hosts.sd_scripts.advice import advice
from sga_kohya.hosts.sd_scripts.families import SD, SDXL, family_of
from sga_kohya.hosts.sd_scripts.loss import snr
from sga_kohya.training.memory import Load, Model
from sga_kohya.training.session import Session


class Levels:
    """training.host.Levels of these arguments. args: the host's, as its parser made them."""

    def __init__(self, args: argparse.Namespace, config: SgaConfig):
        self.args, self.config = args, config
        self.family = family_of(args)
        self.modulation = self.family.modulation

    def advice(self) -> list[str]:
        return list(advice(vars(self.args)))

    def memory(self, batch: int, side: int, frames: int = 1) -> tuple[Model, Load] | None:
        cached = getattr(self.args, "cache_text_encoder_outputs", None)  # an option that SD's scripts lack
        family = SDXL if self.family is SD and cached is not None else self.family
        load = Load(batch, side, frames=frames, encoders=not cached)
        return question(family.name, self.args, Path(str(self.args.pretrained_model_name_or_path)), load)

    def noise_levels(self, label: str | None, bucket: tuple[int, int], count: int) -> Tensor:
        """As the host draws them and our parts move them. The random state is left as it was."""
        [seam] = noise.seams_of(self.family.scripts[0])
        original = inspect.unwrap(getattr(import_module(self.family.sampler), seam.target.rpartition(".")[2]))
        given = [] if seam is noise.SD3 else [_scheduler(self.args.discrete_flow_shift)]

        def draw(session: Session, empty: Tensor) -> object:
            function = seam.replace(original, session)
            return function(self.args, *given, empty, empty, torch.device("cpu"), torch.float32)

        width, height = (side // self.family.compression for side in bucket)
        return drawn_levels(self.config, label, count, (width, height), draw)

    def snr_weights(self, label: str | None) -> Tensor:
        gamma = self.config.gamma(label)
        if gamma is None:
            gamma = self.args.min_snr_gamma
        if not gamma or isinstance(gamma, str):  # see started.py: the host's own is not set
            return torch.ones(1000)
        zero_terminal = bool(getattr(self.args, "zero_terminal_snr", False))
        return min_snr_weight(_snr(zero_terminal), gamma, v_prediction=bool(self.args.v_parameterization))


@functools.cache
def _scheduler(shift: float) -> Any:
    sd3 = import_module("library.sd3_train_utils")
    return sd3.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)


@functools.cache
def _snr(zero_terminal: bool) -> Tensor:
    from diffusers import DDPMScheduler

    # Stable Diffusion's schedule, which every script of its family writes out.
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    if zero_terminal:
        import_module("library.custom_train_functions").fix_noise_scheduler_betas_for_zero_terminal_snr(scheduler)
    return snr(scheduler)
