"""Semantic Granularity Alignment (arXiv:2603.10785) in one flat file: Algorithm 2 on torch alone, training a toy.

    python examples/algorithm_2.py

`sga_kohya` does the same inside real trainers; tests/test_examples.py asserts that the gradients are equal. Read on
from `tuple_step`. Convention: sigma in [0, 1], 1 is noise; x = (1 - sigma) * z + sigma * noise; u = noise - z.
"""

import math
import random
from collections import defaultdict

import torch
from torch import Tensor, nn

GRANULARITIES = ("macro", "meso", "micro")
DELTA = {"macro": 0.5, "meso": 0.0, "micro": -0.5}  # Eq. 29: coarse slices train at more noise, fine ones at less
GAMMA = {"macro": 4.0, "meso": 5.0, "micro": 7.0}  # Eq. 32: thresholds of Min-SNR, for U-Nets
LAMBDA = {"macro": 1.0, "meso": 1.0, "micro": 1.0}  # Eq. 6

Group = dict[str, Tensor]  # one region of a photo: granularity -> its slice's latents, (C, H, W)


def sample_sigma(granularity: str, count: int, tokens: int, generator: torch.Generator) -> Tensor:
    """Eq. 30-31: noise levels of a DiT. tokens: of the slice, a quarter of its latent pixels. Returns (count,)."""
    z = torch.randn(count, generator=generator)
    t = torch.sigmoid(z + DELTA[granularity])
    mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
    return t / (t + (1 - t) * math.exp(-mu))


def min_snr_weight(granularity: str, snr: Tensor, v_prediction: bool = False) -> Tensor:
    """Eq. 33: what a U-Net's loss is multiplied by instead. snr: (B,), at least 0. Returns (B,), in [0, 1]."""
    gamma = torch.full_like(snr, GAMMA[granularity])
    return torch.minimum(snr, gamma) / (snr + 1) if v_prediction else gamma / torch.maximum(snr, gamma)


def flow_matching_loss(model: nn.Module, z: Tensor, granularity: str, generator: torch.Generator) -> Tensor:
    """Of each sample, (B,). z: (B, C, H, W), slices of one granularity and size."""
    sigma = sample_sigma(granularity, len(z), z.shape[-2] * z.shape[-1] // 4, generator)
    noise = torch.randn(z.shape, generator=generator)
    level = sigma.view(-1, 1, 1, 1)
    prediction = model((1 - level) * z + level * noise, sigma)
    return (prediction - (noise - z)).square().flatten(1).mean(dim=1)


def tuple_step(model: nn.Module, groups: list[Group], batch_size: int, generator: torch.Generator) -> float:
    """Algorithm 2: accumulate the gradient of one tuple step. groups: with equal granularities. Returns the loss.

    Eq. 6: L = 1/K * sum_k lambda_k * L_k, L_k the mean over all slices of granularity k. Slices of several sizes cannot
    be stacked, so a granularity is several sub-batches, each weighted by its share of the granularity's slices. Memory
    is that of the largest sub-batch.
    """
    present = [name for name in GRANULARITIES if name in groups[0]]  # K of them
    total = 0.0
    for granularity in present:
        by_size: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for group in groups:
            by_size[group[granularity].shape].append(group[granularity])
        for slices in by_size.values():
            for start in range(0, len(slices), batch_size):
                part = torch.stack(slices[start : start + batch_size])
                weight = LAMBDA[granularity] / len(present) * len(part) / len(groups)
                loss = flow_matching_loss(model, part, granularity, generator).mean() * weight
                loss.backward()  # gradients add up; the optimizer steps once, when every granularity has been seen
                total += loss.item()
    return total


def epoch(groups: list[Group], groups_per_step: int, rng: random.Random) -> list[list[Group]]:
    """Every group once: whole groups, one set of granularities a step, in a new order."""
    alike: dict[frozenset[str], list[Group]] = defaultdict(list)
    for group in rng.sample(groups, len(groups)):
        alike[frozenset(group)].append(group)
    steps = [m[i : i + groups_per_step] for m in alike.values() for i in range(0, len(m), groups_per_step)]
    rng.shuffle(steps)
    return steps


def train(model: nn.Module, groups: list[Group], epochs: int, batch_size: int = 4, lr: float = 2e-3) -> list[float]:
    """Returns the mean loss of each epoch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    rng, generator = random.Random(0), torch.Generator().manual_seed(0)
    losses = []
    for _ in range(epochs):
        steps = epoch(groups, batch_size, rng)
        seen = []
        for step in steps:
            seen.append(tuple_step(model, step, batch_size, generator))
            optimizer.step()
            optimizer.zero_grad()
        losses.append(sum(seen) / len(seen))
    return losses


class Toy(nn.Module):
    """A denoiser of a few thousand parameters: convolutions that are told the noise level."""

    def __init__(self, channels: int = 4, width: int = 32):
        super().__init__()
        self.enter = nn.Conv2d(channels + 1, width, 3, padding=1)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.leave = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.view(-1, 1, 1, 1).expand(-1, 1, *x.shape[-2:])
        hidden = nn.functional.silu(self.enter(torch.cat([x, level], dim=1)))
        return self.leave(nn.functional.silu(self.middle(hidden)))


def photos(count: int) -> list[Group]:
    """Smooth random pictures and crops of them, as H-SD cuts photos: a quarter has no micro slice, so K is 3 or 2."""
    generator, groups = torch.Generator().manual_seed(1), []
    for number in range(count):
        size = [(16, 16), (12, 20)][number % 2]
        photo = nn.functional.interpolate(torch.randn(1, 4, 4, 4, generator=generator), size=(32, 40), mode="bicubic")
        crops = {"macro": photo, "meso": photo[..., 4:28, 4:36], "micro": photo[..., 8:20, 10:26]}
        names = GRANULARITIES[: 2 if number % 4 == 3 else 3]
        groups.append({name: nn.functional.interpolate(crops[name], size=size)[0] for name in names})
    return groups


if __name__ == "__main__":
    torch.manual_seed(0)
    for number, loss in enumerate(train(Toy(), photos(24), epochs=20), start=1):
        if number % 5 == 0 or number == 1:
            print(f"epoch {number:3}  loss {loss:.4f}")
