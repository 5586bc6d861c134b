"""What the demo runs and measures: a toy is pretrained, then fine-tuned three times from there at equal cost."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from diffusers import FluxPipeline
from torch import Tensor

from sga_kohya.config import SgaConfig
from sga_kohya.demo.photos import write_crops
from sga_kohya.hsd import HsdConfig, LevelConfig
from sga_kohya.hsd import run as decompose
from sga_kohya.hsd.out.manifest import Row
from sga_kohya.reference.data import SliceDataset
from sga_kohya.reference.options import RunOptions
from sga_kohya.reference.sample import sample
from sga_kohya.reference.trainer import Spent, Trainer
from sga_kohya.tuples.groups import granularities
from sga_kohya.tuples.records import read_records
from sga_kohya.tuples.step import SubBatch

LEVELS = ("macro", "meso", "micro")
SIDE = 128
"""Pixels. All slices are squares of one size, so that all runs make batches of the same number of slices."""
PIXELS = 16
"""What the models see: every slice averaged down to PIXELS x PIXELS."""
CROP_SIDE = 32
BATCH = 2
"""Slices in a forward pass of SGA, and in the batches of the run without tuples."""
RATE = 2e-3
NOISE_LEVELS = tuple((index + 0.5) / 8 for index in range(8))


@dataclass(frozen=True)
class Size:
    """How much the demo does. crops: of each other picture, to pretrain on for `pretraining` steps of 16. repeats:
    noises per slice and noise level when the loss is measured."""

    photos: int
    crops: int
    pretraining: int
    epochs: int
    width: int
    depth: int
    repeats: int
    sampling_steps: int


FULL = Size(photos=6, crops=60, pretraining=500, epochs=40, width=96, depth=3, repeats=6, sampling_steps=20)
QUICK = Size(photos=4, crops=4, pretraining=4, epochs=4, width=32, depth=2, repeats=1, sampling_steps=4)


@dataclass(frozen=True)
class Setting:
    """One of the runs. batch: slices (with tuples: groups) a step, as the command line says it."""

    name: str
    words: str
    batch: int
    config: SgaConfig
    extra: str


_STOCK = SgaConfig(tuples=False, modulation=False, probe_every=1)
_STOCK_WORDS = "--sga_tuples=false --sga_modulation=false --sga_probe_every 1"
SETTINGS = (
    Setting("small batches", f"any {BATCH} slices a step", BATCH, _STOCK, _STOCK_WORDS),
    Setting("equal batches", f"any {BATCH * len(LEVELS)} slices a step", BATCH * len(LEVELS), _STOCK, _STOCK_WORDS),
    Setting("SGA", f"{BATCH} whole groups a step", BATCH, SgaConfig(probe_every=1), "--sga_probe_every 1"),
)
"""Without tuples; the control, whose steps are as large as a tuple step; and SGA."""


@dataclass
class Run:
    """One training and what was measured of it. before, losses: (label, index of noise level) -> mean squared error,
    of the pretrained toy and after fine-tuning. cosines: of each step's gradient and the one before."""

    name: str
    words: str
    command: str
    spent: Spent
    parameters: int
    sigmas: dict[str, list[float]]
    before: dict[tuple[str, int], float]
    losses: dict[tuple[str, int], float]
    cosines: list[float]
    samples: dict[str, Tensor]
    plan: list[tuple[SubBatch, ...]]

    def mean_loss(self, label: str | None = None, wanted: Callable[[float], bool] = lambda level: True) -> float:
        """Over the wanted noise levels, of one granularity or of all."""
        return _mean(self.losses, label, wanted)

    def mean_before(self) -> float:
        return _mean(self.before, None, lambda level: True)

    def saved(self, label: str | None = None, wanted: Callable[[float], bool] = lambda level: True) -> float:
        """By what part fine-tuning brought that error down."""
        return 1 - _mean(self.losses, label, wanted) / _mean(self.before, label, wanted)


def _mean(losses: dict[tuple[str, int], float], label: str | None, wanted: Callable[[float], bool]) -> float:
    return fmean(value for (of, index), value in losses.items() if label in (None, of) and wanted(NOISE_LEVELS[index]))


def pretrain(out: Path, size: Size, seed: int) -> Path:
    """A toy in diffusers' format, trained on crops of scikit-image's other pictures. Returns its folder."""
    crops = write_crops(out / "crops", size.crops, CROP_SIDE, batch_size=16, seed=seed)
    options = RunOptions(
        crops,
        out / "run",
        steps=size.pretraining,
        lr=RATE,
        seed=seed,
        width=size.width,
        depth=size.depth,
        pool=CROP_SIDE // PIXELS,
    )
    trainer = Trainer(options, SgaConfig(enabled=False))
    trainer.run()
    stack = trainer.stack
    pipeline: Any = FluxPipeline(stack.scheduler, None, None, None, None, None, stack.denoiser.model)
    pipeline.save_pretrained(out / "toy")
    return out / "toy"


def slice_photos(photos: Path, out: Path) -> list[Row]:
    """H-SD at small size. Returns the manifest's rows."""
    levels = tuple(LevelConfig(name, resolution=SIDE, sizes=((SIDE, SIDE),)) for name in LEVELS)
    every = {"threshold": 0}  # a part of each photo, also where none stands out: the page compares whole groups
    config = HsdConfig(levels=levels, min_size=64, batch_size=BATCH, detector_options=every)
    return decompose(photos, out, config, workers=2).rows


def train(setting: Setting, toy: Path, dataset: Path, out: Path, size: Size, seed: int) -> Run:
    """One fine-tuning of a DoRA with the reference trainer, then its loss and samples."""
    options = RunOptions(
        dataset,
        out,
        model=toy,
        epochs=size.epochs,
        batch_size=setting.batch,
        lr=RATE,
        seed=seed,
        pool=SIDE // PIXELS,
    )
    sigmas: dict[str, list[float]] = defaultdict(list)

    def observe(sub_batch: SubBatch, timesteps: Tensor, losses: Tensor) -> None:
        for label, timestep in zip(sub_batch.granularities, timesteps.tolist(), strict=True):
            sigmas[label or ""].append(timestep / 1000)

    trainer = Trainer(options, setting.config, observe)
    before = measure(trainer, size.repeats, seed)
    spent = trainer.run()
    command = (
        f"python -m sga_kohya.reference --dataset_config {dataset} --model {toy} --out RUN --epochs {size.epochs} "
        f"--batch_size {setting.batch} --lr {RATE:g} --seed {seed} --pool {SIDE // PIXELS} {setting.extra}"
    )
    cosines = [record.get("step_cosine") for record in read_records(out / "interference.jsonl")]
    return Run(
        name=setting.name,
        words=setting.words,
        command=command,
        spent=spent,
        parameters=sum(p.numel() for p in trainer.stack.denoiser.parameters() if p.requires_grad),
        sigmas=dict(sigmas),
        before=before,
        losses=measure(trainer, size.repeats, seed),
        cosines=[cosine for cosine in cosines if cosine is not None],
        samples=draw(trainer, size.sampling_steps, seed),
        plan=list(trainer.dataset.plan(0)),
    )


@torch.no_grad()
def measure(trainer: Trainer, repeats: int, seed: int) -> dict[tuple[str, int], float]:
    """Mean squared error by granularity and noise level, on the training slices, with the same noise for every run."""
    dataset, stack = trainer.dataset, trainer.stack
    found: dict[tuple[str, int], float] = {}
    for label in LEVELS:
        keys = [item.key for item in dataset.slices if item.granularity == label]
        batch = dataset.load(SubBatch(0, tuple(keys) * repeats, (label,) * len(keys) * repeats))
        latents, text = batch["latents"], batch["text"]
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
