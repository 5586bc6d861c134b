"""Granularity-dependent noise levels for flow matching: Eq. 29-31 of arXiv:2603.10785.

Convention (that of sd-scripts): sigma in [0, 1], 1 is pure noise, x = (1 - sigma) * latents + sigma * noise.
"""

import math

import torch
from torch import Tensor

# FLUX's resolution shift: mu is linear in the number of image tokens, through these two points.
_TOKENS_AND_MU = ((256, 0.5), (4096, 1.15))


def shift_logit(sigma: Tensor, delta: Tensor | float) -> Tensor:
    """Move noise levels by delta in logit space: sigmoid(logit(sigma) + delta).

    This is the Delta(S) of Eq. 30. Because Eq. 31, `shift` and `flux_shift` are themselves additive in logit space,
    applying it after them equals applying it inside them.

    sigma: (...), in [0, 1]. delta: broadcastable to sigma, any real. Returns (...), in [0, 1].
    """
    # odds' = odds * e^delta, written without logit, and with 1 - sigma, so that sigma = 0 and sigma = 1 stay put
    # instead of becoming NaN or, by rounding, more than 1.
    odds = _exp(delta)
    return sigma * odds / (sigma * odds + (1 - sigma))


def resolution_shift(t: Tensor, mu: Tensor | float) -> Tensor:
    """Eq. 31: t / (t + (1 - t) * exp(-mu)). t: (...), in [0, 1]. mu: broadcastable. Returns (...), in [0, 1]."""
    return shift_logit(t, mu)


def resolution_mu(latent_height: int, latent_width: int) -> float:
    """mu_res of Eq. 31 as FLUX sets it. Sizes in latent pixels, an eighth of the image's. Returns mu, a number."""
    return token_mu((latent_height // 2) * (latent_width // 2), *_TOKENS_AND_MU)


def token_mu(tokens: int, low: tuple[int, float], high: tuple[int, float]) -> float:
    """mu_res of an image of so many tokens. low, high: (tokens, mu) of two points of the line. Returns mu."""
    (tokens_low, mu_low), (tokens_high, mu_high) = low, high
    return mu_low + (mu_high - mu_low) * (tokens - tokens_low) / (tokens_high - tokens_low)


def sample_sigma(
    delta: Tensor, scale: float = 1.0, mu: Tensor | float = 0.0, generator: torch.Generator | None = None
) -> Tensor:
    """Draw noise levels by Eq. 29-31: t_logit = sigmoid(scale * z + delta), then the resolution shift by mu.

    delta: (B,), Delta(S) of each sample. scale: s of Eq. 30, above 0. mu: (B,) or a number. Returns (B,), in (0, 1).
    """
    z = torch.randn(delta.shape, generator=generator, dtype=delta.dtype, device=delta.device)
    return resolution_shift(torch.sigmoid(scale * z + delta), mu)


def renoise(noisy: Tensor, latents: Tensor, sigma: Tensor, delta: Tensor) -> Tensor:
    """Carry a linear-path sample from noise level sigma to shift_logit(sigma, delta), keeping its latents and noise.

    The noise is not needed: x' = (e^delta * x + (1 - sigma)(1 - e^delta) * z) / (1 + sigma(e^delta - 1)), so whatever
    the host mixed into its noise (ip_noise_gamma, offsets) is kept, and sigma = 0 and 1 are regular points.

    noisy, latents: (B, C, H, W) or (B, C, F, H, W). sigma, delta: broadcastable to them. Returns the shape of noisy.
    """
    odds = _exp(delta)
    return (odds * noisy + (1 - sigma) * (1 - odds) * latents) / (sigma * odds + (1 - sigma))


def _exp(value: Tensor | float) -> Tensor | float:
    return value.exp() if isinstance(value, Tensor) else math.exp(value)
