"""What a run of musubi-tuner will draw, by the host's own method without a model; see training/host.py."""

import argparse
import inspect
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from sga_kohya.config import SgaConfig
from sga_kohya.hosts.memory import question
from sga_kohya.hosts.musubi import noise
from sga_kohya.hosts.musubi.families import Family
from sga_kohya.training.events import Run
from sga_kohya.training.memory import Load, Model
from sga_kohya.training.session import Session
from sga_kohya.tuples.step import SubBatch
from sga_kohya.words import TIMESTEP_SHIFT


class Levels:
    """training.host.Levels of these arguments. args: the host's, as its parser made them."""

    modulation = TIMESTEP_SHIFT

    def __init__(self, args: argparse.Namespace, config: SgaConfig, family: Family):
        self.args, self.config, self.family = args, config, family

    def advice(self) -> list[str]:
        return []

    def memory(self, batch: int, side: int, frames: int = 1) -> tuple[Model, Load] | None:
        return question(self.family.name, self.args, Path(str(self.args.dit)), Load(batch, side, frames=frames))

    def noise_levels(self, label: str | None, bucket: tuple[int, int], count: int) -> Tensor:
        """As the base method draws them and our parts move them. The random state is left as it was."""
        host = import_module("musubi_tuner.hv_train_network")
        original = inspect.unwrap(host.NetworkTrainer.get_noisy_model_input_and_timesteps)
        session = Session(replace(self.config, path="linear"))  # whose points need channels; levels are the same
        session.started(Run(self.modulation))
        session.accelerator = SimpleNamespace(current=SubBatch(0, (), (label,) * count))  # type: ignore[assignment]
        width, height = (side // self.family.compression for side in bucket[:2])
        empty = torch.empty(count, 0, height, width)
        trainer = SimpleNamespace(num_timestep_buckets=None)
        scheduler = host.FlowMatchDiscreteScheduler(shift=self.args.discrete_flow_shift, reverse=True, solver="euler")
        draw = noise.BASE.replace(original, session)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            draw(trainer, self.args, empty, empty, None, scheduler, torch.device("cpu"), torch.float32)
        assert session.batch is not None
        return session.batch.sigma

    def snr_weights(self, label: str | None) -> Tensor:
        raise NotImplementedError("musubi-tuner trains no U-Nets")
