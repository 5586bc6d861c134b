"""What is measured of a fleet: held-out error, forgetting, conflict of granularities, samples and copying."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sga_kohya.equations import gram as grams
from sga_kohya.spherical.frechet import frechet_distance
from tests.bench.evidence.corpora import LEVELS
from tests.bench.evidence.fleet import Fleet
from tests.bench.evidence.ground import Ground, Judge

NOISE_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
SAMPLER_STEPS = 12
HALVES = ("chosen", "reported")
"""Of the held-out photos: by the first a rate and a stopping point are chosen, by the second results are reported."""


@dataclass(frozen=True)
class Held:
    """What one seed's model never sees. latents: by half, (3 * N, C, H, W), N of each granularity in LEVELS' order.

    pictures: by granularity, (n, 3, H, W). prompts: captions to draw samples for. seen: what it may copy.
    """

    latents: dict[str, Tensor]
    captions: dict[str, list[str]]
    whole: Tensor
    slices: Tensor
    seen: Tensor
    prompts: list[str]


def _batch(fleet: Fleet, ground: Ground, x: Tensor, timestep: float, captions: Sequence[Sequence[str]]):
    device = fleet.theta.device
    text = [ground.text(of) for of in captions]
    tokens = torch.stack([tokens for tokens, _ in text]).to(device)
    pooled = None if text[0][1] is None else torch.stack([p for _, p in text]).to(device)  # type: ignore[misc]
    return x.to(device), torch.full(x.shape[:2], timestep, device=device), tokens, pooled


def _values(fleet: Fleet) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in fleet.values.items()}


@torch.no_grad()
def _errors_at(fleet: Fleet, ground: Ground, latents: Tensor, captions, seeds: Sequence[int]) -> Tensor:
    """Squared error by noise level and sample, (M, levels, N), under noise that depends on the seed alone."""
    found = []
    for number, level in enumerate(NOISE_LEVELS):
        generators = [torch.Generator().manual_seed(9000 + 10 * seed + number) for seed in seeds]
        noise = torch.stack([torch.randn(latents.shape[1:], generator=generator) for generator in generators])
        x, target, timestep = ground.noised(latents, noise, level)
        prediction = fleet.predict(_values(fleet), _batch(fleet, ground, x, timestep, captions)).cpu()
        found.append((prediction - target).square().mean(dim=(2, 3, 4)))
    return torch.stack(found, dim=1)


def held_out(fleet: Fleet, ground: Ground, held: Sequence[Held], seeds: Sequence[int]) -> list[dict[str, list]]:
    """Of each member and half, mean error by granularity and noise level."""
    rows: list[dict[str, list]] = [{} for _ in held]
    for half in HALVES:
        latents = torch.stack([one.latents[half] for one in held])
        errors = _errors_at(fleet, ground, latents, [one.captions[half] for one in held], seeds)
        table = errors.unflatten(2, (len(LEVELS), -1)).mean(dim=3).transpose(1, 2)
        for row, value in zip(rows, table, strict=True):
            row[half] = [[round(float(v), 6) for v in line] for line in value]
    return rows


def retention(fleet: Fleet, ground: Ground, seeds: Sequence[int], count: int = 36) -> list[float]:
    """Mean error on held-out pictures of the broad corpus."""
    latents = ground.held[:count].expand(len(seeds), *ground.held[:count].shape)
    captions = [["wallpaper"] * latents.shape[1]] * len(seeds)
    return _errors_at(fleet, ground, latents, captions, [0] * len(seeds)).mean(dim=(1, 2)).tolist()


def conflict(fleet: Fleet, ground: Ground, held: Sequence[Held], seeds: Sequence[int]) -> list[dict[str, float]]:
    """What the product's probe says of the gradients of the granularities (Eq. 43-45), on held-out slices."""
    rows = []
    latents = torch.stack([one.latents[HALVES[0]] for one in held])
    noise = torch.stack([torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(s)) for s in seeds])
    for number in range(len(LEVELS)):
        size = latents.shape[1] // len(LEVELS)
        part = slice(number * size, (number + 1) * size)
        values = {name: value.detach().requires_grad_() for name, value in fleet.values.items()}
        captions = [one.captions[HALVES[0]][part] for one in held]
        for level in NOISE_LEVELS[::2]:
            x, target, timestep = ground.noised(latents[:, part], noise[:, part], level)
            prediction = fleet.predict(values, _batch(fleet, ground, x, timestep, captions))
            (prediction - target.to(prediction)).square().mean(dim=(1, 2, 3, 4)).sum().backward()
        rows.append(torch.cat([value.grad.flatten(1) for value in values.values()], dim=1).cpu())  # type: ignore
    vectors = torch.stack(rows, dim=1)
    return [grams.summary(table, LEVELS) for table in (vectors @ vectors.mT).double()]


@torch.no_grad()
def samples(fleet: Fleet, ground: Ground, held: Sequence[Held], seeds: Sequence[int]) -> Tensor:
    """One image a prompt of each member, (M, N, 3, H, W)."""
    scheduler = copy.deepcopy(ground.stack.scheduler)
    if ground.kind == "dit":
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / SAMPLER_STEPS, SAMPLER_STEPS))
    else:
        scheduler.set_timesteps(SAMPLER_STEPS)
    captions, shape = [one.prompts for one in held], (len(held[0].prompts), *ground.held.shape[1:])
    x = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(7000 + seed)) for seed in seeds])
    x = x.to(fleet.theta.device)
    for timestep in scheduler.timesteps:
        prediction = fleet.predict(_values(fleet), _batch(fleet, ground, x, float(timestep), captions))
        x = scheduler.step(prediction, timestep, x).prev_sample
    return torch.stack([ground.codec.decode(one) for one in x.cpu()])


def of_samples(drawn: Tensor, held: Held, judge: Judge) -> dict[str, float]:
    """Fréchet distances to held-out pictures, and how many samples are nearer to a training picture than to one of
    as many held-out ones: a half where nothing is copied."""
    features = [_gaussian(judge.features(images)) for images in (drawn, held.whole, held.slices)]
    seen, others = _as_many(held.seen, held.slices)
    nearest = [torch.cdist(drawn.flatten(1), pictures.flatten(1)).amin(1) for pictures in (seen, others)]
    return {
        "frechet_whole": frechet_distance(features[0], features[1]),
        "frechet_slices": frechet_distance(features[0], features[2]),
        "copied": float((nearest[0] < nearest[1]).double().mean()),
    }


def _as_many(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    count = min(len(left), len(right))
    return left[:count], right[:count]


def _gaussian(features: Tensor) -> tuple[np.ndarray, np.ndarray]:
    values = features.double().numpy()
    return values.mean(axis=0), np.cov(values, rowvar=False)
