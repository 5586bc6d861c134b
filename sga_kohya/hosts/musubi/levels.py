"""What a run of musubi-tuner will draw, by the host's own method without a model; see training/host.py."""

import argparse
import inspect
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from sga_kohya.config import SgaConfig
from sga_kohya.hosts.levels import drawn_levels
from sga_kohya.hosts.memory import question
from sga_kohya.hosts.musubi import noise
from sga_kohya.hosts.musubi.checks import advice
from sga_kohya.hosts.musubi.families import HOST, Family
from sga_kohya.training.host import Size
from sga_kohya.training.memory import Load, Model
from sga_kohya.training.session import Session
from sga_kohya.words import TIMESTEP_SHIFT


class Levels:
    """training.host.Levels of these arguments. args: the host's, as its parser made them."""

    modulation = TIMESTEP_SHIFT

    def __init__(self, args: argparse.Namespace, config: SgaConfig, family: Family):
        self.args, self.config, self.family = args, config, family

    def advice(self) -> list[str]:
        return list(advice(vars(self.args), self.config))

    def memory(self, batch: int, side: int, frames: int = 1) -> tuple[Model, Load] | None:
        return question(self.family.name, self.args, Path(str(self.args.dit)), Load(batch, side, frames=frames))

    def noise_levels(self, label: str | None, bucket: Size, count: int) -> Tensor:
        """As the base method draws them and our parts move them."""
        host = import_module("musubi_tuner.hv_train_network")
        original = inspect.unwrap(host.NetworkTrainer.get_noisy_model_input_and_timesteps)
        trainer = SimpleNamespace(num_timestep_buckets=None)
        scheduler = host.FlowMatchDiscreteScheduler(shift=self.args.discrete_flow_shift, reverse=True, solver="euler")

        def draw(session: Session, empty: Tensor) -> object:
            method = noise.BASE.replace(original, session)
            return method(trainer, self.args, empty, empty, None, scheduler, torch.device("cpu"), torch.float32)

        return drawn_levels(self.config, label, count, self.family.latent_size(bucket), draw)

    def snr_weights(self, label: str | None) -> Tensor:
        raise NotImplementedError(f"{HOST} trains no U-Nets")
