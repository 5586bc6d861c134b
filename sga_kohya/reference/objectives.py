"""What the model learns: flow matching with Eq. 29-31, epsilon or v-prediction with Eq. 32-33 of arXiv:2603.10785."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sga_kohya.equations.paths import PATHS, Path, resample_antipodal
from sga_kohya.equations.timesteps import sample_sigma
from sga_kohya.equations.weights import min_snr_weight


class Noised(NamedTuple):
    """noisy, target: (B, C, H, W). timesteps: (B,), 0-1000 with 1000 pure noise. weight: (B,), of each slice's loss.

    path: what of a prediction counts.
    """

    noisy: Tensor
    target: Tensor
    timesteps: Tensor
    weight: Tensor
    path: Path = PATHS["linear"]


# (latents (B, C, H, W), granularity of each, generator) -> Noised; the generator is the CPU's, so that devices agree.
Objective = Callable[[Tensor, Sequence[str | None], torch.Generator], Noised]


def no_mu(height: int, width: int) -> float:
    """Noise levels of a model that are the same at every size."""
    return 0.0


@dataclass(frozen=True)
class FlowMatching:
    """From latents to noise along a path, by default x = (1 - sigma) latents + sigma noise; sigma by Eq. 29-31.

    shift: Delta by label; empty without modulation. mu: (height, width) of the latents -> mu_res of Eq. 31.
    """

    shift: Mapping[str, float]
    mu: Callable[[int, int], float] = no_mu
    path: Path = PATHS["linear"]

    def __call__(self, latents: Tensor, labels: Sequence[str | None], generator: torch.Generator) -> Noised:
        delta = torch.tensor([self.shift.get(label or "", 0.0) for label in labels])
        sigma = sample_sigma(delta, mu=self.mu(*latents.shape[-2:]), generator=generator).to(latents.device)
        noise = torch.randn(latents.shape, generator=generator)
        if self.path.geodesic:
            noise = resample_antipodal(noise, latents.cpu(), generator)
        x, velocity = self.path.at(latents, noise.to(latents), sigma)
        return Noised(x, velocity, 1000 * sigma, torch.ones_like(sigma), self.path)


@dataclass(frozen=True)
class Diffusion:
    """Epsilon or v-prediction, as the DDIM scheduler says, weighted by Eq. 33.

    gamma: Gamma by label; empty without modulation. The loss of a label that it does not name has weight 1, as through
    the seams.
    """

    scheduler: Any
    gamma: Mapping[str, float]

    def __call__(self, latents: Tensor, labels: Sequence[str | None], generator: torch.Generator) -> Noised:
        steps = self.scheduler.config.num_train_timesteps
        timesteps = torch.randint(steps, (len(labels),), generator=generator).to(latents.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        alpha = self.scheduler.alphas_cumprod.to(latents.device)[timesteps]
        named = torch.tensor([(label or "") in self.gamma for label in labels], device=latents.device)
        gamma = torch.tensor([self.gamma.get(label or "", 1.0) for label in labels], device=latents.device)
        v_prediction = self.scheduler.config.prediction_type == "v_prediction"
        weight = min_snr_weight(alpha / (1 - alpha), gamma, v_prediction)
        return Noised(
            self.scheduler.add_noise(latents, noise, timesteps),
            self.scheduler.get_velocity(latents, noise, timesteps) if v_prediction else noise,
            timesteps,
            torch.where(named, weight, torch.ones_like(weight)),
        )


def slice_losses(prediction: Tensor, noised: Noised) -> Tensor:
    """The weighted squared error of each slice, (B,)."""
    velocity = noised.path.velocity(prediction, noised.noisy)
    return noised.weight * (velocity - noised.target.float()).square().mean(dim=(1, 2, 3))
