"""Stage 2: what every run starts from, made once and kept: pretrained models and the network that judges pictures."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sga_kohya.kit.files import whole_file
from sga_kohya.reference.objectives import Diffusion, FlowMatching, Objective
from sga_kohya.reference.scratch import build
from sga_kohya.reference.stack import Stack
from sga_kohya.reference.text import HashedWords
from tests.bench.evidence.fleet import Fleet, Member, Trained, plain_batches

MODELS = ("dit", "unet")
WORDS = 4
"""Words of a caption that the models read."""
PRETRAINING_BATCH = 32
FEATURES = 16


class Shuffled:
    """2x2 pixels become the channels of one latent, scaled to about unit variance. pool: pixels averaged before."""

    factor, channels = 2, 12

    def __init__(self, middle: float, scale: float, pool: int):
        self.middle, self.scale, self.pool = middle, scale, pool

    def encode(self, images: Tensor) -> Tensor:
        return F.pixel_unshuffle((F.avg_pool2d(images, self.pool) - self.middle) / self.scale, self.factor)

    def decode(self, latents: Tensor) -> Tensor:
        pixels = (F.pixel_shuffle(latents, self.factor) * self.scale + self.middle).clamp(-1, 1)
        return F.interpolate(pixels, scale_factor=float(self.pool))


class Words:
    """HashedWords cut to WORDS tokens; each caption is hashed once."""

    def __init__(self, pooled: bool):
        self.pooled, self.hashed = pooled, HashedWords()
        self.known = functools.cache(self._known)

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        found = [self.known(caption) for caption in captions]
        tokens = torch.stack([tokens for tokens, _ in found])
        return tokens, torch.stack([pooled for _, pooled in found]) if self.pooled else None

    def _known(self, caption: str) -> tuple[Tensor, Tensor]:
        tokens, pooled, _ = self.hashed([caption])
        return tokens[0, :WORDS], pooled[0]  # type: ignore[index]


@dataclass(frozen=True)
class Ground:
    """stack: the product's, pretrained. held: latents of broad pictures that no model was trained on."""

    kind: str
    stack: Stack
    codec: Shuffled
    text: Words
    held: Tensor

    def objective(self, shift: dict[str, float], gamma: dict[str, float]) -> Objective:
        """The product's, with an arm's Delta or Gamma."""
        return FlowMatching(shift) if self.kind == "dit" else Diffusion(self.stack.scheduler, gamma)

    def noised(self, latents: Tensor, noise: Tensor, level: float) -> tuple[Tensor, Tensor, float]:
        """x, target and timestep at a share of the way to noise. latents: (..., C, H, W)."""
        if self.kind == "dit":
            return (1 - level) * latents + level * noise, noise - latents, 1000 * level
        timestep = torch.tensor([int(1000 * level)])
        shape = latents.shape
        x = self.stack.scheduler.add_noise(latents.flatten(0, -4), noise.flatten(0, -4), timestep)
        return x.view(shape), noise, float(timestep)


def make_ground(kind: str, folder: Path, width: int, pool: int, steps: int, device: torch.device) -> Ground:
    """FOLDER/KIND.pt: a small model of that kind, pretrained on the broad corpus for so many steps."""
    broad = torch.load(folder / "broad.pt", weights_only=True)
    images = broad["train"]["images"]
    codec = Shuffled(float(images.mean()), float(images.std()), pool)
    torch.manual_seed(0)
    stack = build(kind, codec, width, 3 if kind == "dit" else 2, {})  # type: ignore[arg-type]
    stack.denoiser.to(device).requires_grad_(False)
    ground = Ground(kind, stack, codec, Words(kind == "dit"), codec.encode(broad["held"]["images"]))
    file = folder / f"{kind}-{width}-{steps}.pt" if pool == 1 else folder / f"{kind}-{width}-{steps}-pool{pool}.pt"
    if not file.is_file():
        weights = _pretrained(ground, codec.encode(images), steps)
        with whole_file(file) as part:
            torch.save(weights, part)
    with torch.no_grad():
        for name, value in torch.load(file, weights_only=True).items():
            stack.denoiser.get_parameter(name).copy_(value)
    return ground


def _pretrained(ground: Ground, latents: Tensor, steps: int) -> dict[str, Tensor]:
    """The rate falls to nothing along a cosine."""

    def load(keys: Sequence[str]) -> tuple[Tensor, list[str]]:
        return latents[[int(key) for key in keys]], ["wallpaper"] * len(keys)

    size = PRETRAINING_BATCH
    member = Member(plain_batches(len(latents), size, 0), ground.objective({}, {}), 0.0, 0, load)
    fleet = Fleet(ground.stack.denoiser, Trained(ground.stack.denoiser), [member], ground.text, size)
    for step in range(steps):
        warm = min(1.0, (step + 1) / 50)
        fleet.lr = [2e-3 * warm * 0.5 * (1 + math.cos(math.pi * step / steps))]
        fleet.train(1)
    return {name: value.detach()[0].cpu().clone() for name, value in fleet.values.items()}


class Judge(nn.Module):
    """Tells from which wallpaper a crop is; its last but one layer is what pictures are compared by. See `features`."""

    def __init__(self, classes: int):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, 32), (32, 48), (48, 64)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, FEATURES))
        self.head = nn.Sequential(nn.SiLU(), nn.Linear(FEATURES, classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(N, FEATURES) of (N, 3, H, W) in [-1, 1]."""
        return torch.cat([self.body(some) for some in images.split(256)])


def make_judge(folder: Path, steps: int) -> Judge:
    """FOLDER/judge.pt."""
    train = torch.load(folder / "broad.pt", weights_only=True)["train"]
    _, classes = train["which"].unique(return_inverse=True)
    torch.manual_seed(0)
    judge, file = Judge(int(classes.max()) + 1), folder / f"judge-{steps}.pt"
    if not file.is_file():
        optimizer = torch.optim.AdamW(judge.parameters(), 2e-3)
        for _ in range(steps):
            some = torch.randint(len(classes), (64,))
            F.cross_entropy(judge(train["images"][some]), classes[some]).backward()
            optimizer.step()
            optimizer.zero_grad()
        with whole_file(file) as part:
            torch.save(judge.state_dict(), part)
    judge.load_state_dict(torch.load(file, weights_only=True))
    return judge.requires_grad_(False).eval()
