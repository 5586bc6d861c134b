"""What the demo runs and measures: two trainings of equal cost, and their loss at fixed noise levels."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from sga_kohya.config import SgaConfig
from sga_kohya.hsd import HsdConfig, LevelConfig
from sga_kohya.hsd import run as decompose
from sga_kohya.hsd.out.manifest import Row
from sga_kohya.reference.data import SliceDataset
from sga_kohya.reference.options import RunOptions
from sga_kohya.reference.sample import sample
from sga_kohya.reference.trainer import Spent, Trainer
from sga_kohya.tuples.planner import granularities
from sga_kohya.tuples.step import SubBatch

LEVELS = ("macro", "meso", "micro")
SCALE_WORDS = {"macro": "whole view", "meso": "a part", "micro": "close-up"}
SIDE = 128
"""Pixels. All slices are squares of one size, so that both runs make steps of the same number of slices."""
PIXELS = 16
"""What the models see: every slice averaged down to PIXELS x PIXELS."""
SLICES_PER_STEP = 6
NOISE_LEVELS = tuple((index + 0.5) / 8 for index in range(8))


@dataclass(frozen=True)
class Size:
    """How much the demo does. repeats: noises per slice and noise level when the loss is measured."""

    photos: int
    epochs: int
    width: int
    depth: int
    repeats: int
    sampling_steps: int


FULL = Size(photos=6, epochs=200, width=96, depth=4, repeats=6, sampling_steps=28)
QUICK = Size(photos=4, epochs=12, width=32, depth=2, repeats=1, sampling_steps=8)


@dataclass
class Run:
    """One training and what was measured of it. losses: (label, index of noise level) -> mean squared error."""

    name: str
    command: str
    spent: Spent
    parameters: int
    sigmas: dict[str, list[float]]
    losses: dict[tuple[str, int], float]
    samples: dict[str, Tensor]
    plan: list[tuple[SubBatch, ...]]

    def mean_loss(self, label: str | None = None, wanted: Callable[[float], bool] = lambda level: True) -> float:
        """Over the wanted noise levels, of one granularity or of all."""
        return fmean(
            value for (of, index), value in self.losses.items() if label in (None, of) and wanted(NOISE_LEVELS[index])
        )


def slice_photos(photos: Path, out: Path) -> list[Row]:
    """H-SD at small size, with the scale named in the captions. Returns the manifest's rows."""
    levels = tuple(LevelConfig(name, resolution=SIDE, sizes=((SIDE, SIDE),)) for name in LEVELS)
    config = HsdConfig(levels=levels, min_size=64, batch_size=SLICES_PER_STEP)
    rows = decompose(photos, out, config, workers=2).rows
    for row in rows:
        # Siblings get one caption from H-SD; a toy that starts from nothing must be told which of them is meant.
        if row.file is not None:
            file = (out / row.file).with_suffix(".txt")
            file.write_text(f"{file.read_text(encoding='utf-8')}, {SCALE_WORDS[row.granularity]}", encoding="utf-8")
    return rows


def train(name: str, dataset: Path, out: Path, config: SgaConfig, extra: str, size: Size, seed: int) -> Run:
    """One run with the reference trainer, then its loss and samples. extra: what its command line says of SGA."""
    options = RunOptions(
        dataset, out, epochs=size.epochs, lr=2e-3, seed=seed, width=size.width, depth=size.depth, pool=SIDE // PIXELS
    )
    sigmas: dict[str, list[float]] = defaultdict(list)

    def observe(sub_batch: SubBatch, timesteps: Tensor, losses: Tensor) -> None:
        for label, timestep in zip(sub_batch.granularities, timesteps.tolist(), strict=True):
            sigmas[label or ""].append(timestep / 1000)

    trainer = Trainer(options, config, observe)
    spent = trainer.run()
    command = (
        f"python -m sga_kohya.reference --dataset_config {dataset} --out RUN --epochs {size.epochs} --lr 0.002 "
        f"--seed {seed} --width {size.width} --depth {size.depth} --pool {SIDE // PIXELS} {extra}"
    )
    return Run(
        name=name,
        command=command,
        spent=spent,
        parameters=sum(p.numel() for p in trainer.stack.denoiser.parameters()),
        sigmas=dict(sigmas),
        losses=measure(trainer, size.repeats, seed),
        samples=draw(trainer, size.sampling_steps, seed),
        plan=trainer.dataset.plan(0),
    )


@torch.no_grad()
def measure(trainer: Trainer, repeats: int, seed: int) -> dict[tuple[str, int], float]:
    """Mean squared error by granularity and noise level, on the training slices, with the same noise for every run."""
    dataset, stack = trainer.dataset, trainer.stack
    found: dict[tuple[str, int], float] = {}
    for label in LEVELS:
        keys = [item.key for item in dataset.slices if item.granularity == label]
        batch = dataset.load(SubBatch(0, tuple(keys) * repeats, (label,) * len(keys) * repeats))
        latents, text = stack.codec.encode(batch["images"]), stack.text(batch["captions"])
        for index, level in enumerate(NOISE_LEVELS):
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed + 1))
            noisy = (1 - level) * latents + level * noise
            prediction = stack.denoiser(noisy, torch.full((len(latents),), 1000 * level), *text)
            found[label, index] = float((prediction - (noise - latents)).square().mean())
    return found


def draw(trainer: Trainer, steps: int, seed: int) -> dict[str, Tensor]:
    """File of each slice -> image (3, H, W) in [-1, 1] for its caption; the same starting noise for every run."""
    captions = trainer.dataset.captions
    return dict(zip(captions, sample(trainer.stack, list(captions.values()), (SIDE, SIDE), steps, seed), strict=True))


def plan_in_words(dataset: SliceDataset) -> str:
    """How many steps of what an epoch has."""
    steps, groups = dataset.plan(0), dataset.planner.groups
    kinds = sorted({granularities(group) for group in groups}, key=len, reverse=True)
    named = " or ".join("-".join(label for label in LEVELS if label in kind) for kind in kinds)
    return (
        f"{len(dataset.slices)} slices form {len(groups)} groups ({named}). An epoch is {len(steps)} tuple steps: each "
        f"updates the weights once, after {len(steps[0])} sub-batches, one per granularity, of the same photos. "
        "Every slice is used once an epoch, none twice."
    )
