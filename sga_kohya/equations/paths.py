"""Flow matching on straight and on spherical paths: arXiv:2605.15193.

Convention (that of sd-scripts): sigma in [0, 1], 1 is pure noise, velocities are derivatives with respect to sigma.
A token is the channel vector of one latent pixel, before any packing into patches: dimension 1 of (B, d, …), d >= 2.
All of it is elementwise or a sum over the token, and computed in float32 at least: autocast cannot lower it.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sga_kohya.words import PATH_NAMES

_TINY = 1e-20
_ANTIPODAL = 1e-3  # radians from pi at which float32 begins to lose the direction of a geodesic


class PathPoint(NamedTuple):
    """x: where a path is at sigma. velocity: its derivative there. Both (B, d, …), float32 or float64."""

    x: Tensor
    velocity: Tensor


@dataclass(frozen=True)
class Path:
    """One way from latents to noise, with the loss and the sampler that belong to it.

    spherical: both ends are projected to the radius sqrt(d). geodesic: directions turn by slerp instead of a chord.
    tangent: target and prediction lose what is radial, and sampling follows the exponential map.
    """

    spherical: bool = False
    geodesic: bool = False
    tangent: bool = False

    def prior(self, noise: Tensor) -> Tensor:
        """Where sampling starts. noise: (B, d, …), Gaussian."""
        return project(noise) if self.spherical else at_least_float32(noise)

    def at(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> PathPoint:
        """latents, noise: (B, d, …), normalised latents and Gaussian noise. sigma: (B,) or broadcastable to them."""
        z, eps = self.prior(latents), self.prior(noise)
        sigma = _as_column(sigma, z)
        if not self.geodesic:
            return PathPoint((1 - sigma) * z + sigma * eps, eps - z)
        direction, turn = _slerp(unit(z), unit(eps), sigma)
        if self.spherical:
            return PathPoint(math.sqrt(z.shape[1]) * direction, math.sqrt(z.shape[1]) * turn)
        start, end = _norm(z), _norm(eps)
        radius = (1 - sigma) * start + sigma * end
        return PathPoint(radius * direction, radius * turn + (end - start) * direction)

    def velocity(self, prediction: Tensor, x: Tensor) -> Tensor:
        """What of a prediction (B, d, …) at x counts, in the loss and in the sampler."""
        return tangent(prediction, x) if self.tangent else at_least_float32(prediction)

    def step(self, x: Tensor, displacement: Tensor) -> Tensor:
        """One step of the sampler. displacement: (sigma' - sigma) * prediction, both (B, d, …)."""
        if self.tangent:
            return exponential_map(project(x), displacement)
        return at_least_float32(x) + at_least_float32(displacement)

    def end(self, x: Tensor) -> Tensor:
        """What to decode, from a sampler's last x, (B, d, …) both."""
        return self.prior(x)


_LINEAR, _SHELL = Path(), Path(geodesic=True)
_CHORD, _SLERP = Path(spherical=True), Path(spherical=True, geodesic=True, tangent=True)
PATHS = dict(zip(PATH_NAMES, (_LINEAR, _SHELL, _CHORD, _SLERP), strict=True))
"""The paper's modes; `linear` is its vanilla-linear, and what sd-scripts trains."""


def project(z: Tensor) -> Tensor:
    """pi(z) = sqrt(d) * z / |z|. A zero token has no direction and gets the same one each time. (B, d, …)."""
    return math.sqrt(z.shape[1]) * unit(z)


def unit(z: Tensor) -> Tensor:
    """z / |z| by token. z: (B, d, …). Raises ValueError for d < 2, where there is no sphere."""
    z = at_least_float32(z)
    if z.shape[1] < 2:
        raise ValueError(f"latents of shape {tuple(z.shape)} have tokens of {z.shape[1]} channel; a sphere needs two")
    norm = _norm(z)
    return torch.where(norm > _TINY, z / norm.clamp_min(_TINY), 1 / math.sqrt(z.shape[1]))


def tangent(v: Tensor, x: Tensor) -> Tensor:
    """Pi_x v = v - (<v, x> / |x|^2) x: v without its radial part at x. v, x: (B, d, …)."""
    v, x = at_least_float32(v), at_least_float32(x)
    return v - _dot(v, x) / _dot(x, x).clamp_min(_TINY) * x


def exponential_map(x: Tensor, w: Tensor) -> Tensor:
    """Walk along the great circle from x in the direction of w, as far as its tangent part is long.

    phi = |w| / sqrt(d); x' = cos(phi) x + sqrt(d) sin(phi) w / |w|. Exact on a slerp path.
    x: (B, d, …), on the sphere of radius sqrt(d). w: (B, d, …), any vector; its radial part is dropped.
    """
    w = tangent(w, x)
    phi = _norm(w) / math.sqrt(x.shape[1])
    return torch.cos(phi) * x + torch.sinc(phi / math.pi) * w  # sinc: no division by a zero |w|


def angle(a: Tensor, b: Tensor) -> Tensor:
    """The angle between tokens, (B, 1, …), in [0, pi]; accurate at both ends. a, b: (B, d, …)."""
    a, b = unit(a), unit(b)
    # Kahan's form: unlike arccos it keeps its digits where the cosine is nearly 1 or -1.
    return 2 * torch.atan2(_norm(a - b), _norm(a + b))


def resample_antipodal(noise: Tensor, latents: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw the noise anew of tokens that lie opposite their latents, where the geodesic is not unique.

    noise, latents: (B, d, …). generator: of the noise's device; drawn from only when there is such a token.
    """
    while bool((opposite := angle(noise, latents) > math.pi - _ANTIPODAL).any()):
        fresh = torch.randn(noise.shape, generator=generator, device=noise.device, dtype=noise.dtype)
        noise = torch.where(opposite, fresh, noise)
    return noise


def radial_share(v: Tensor, x: Tensor) -> Tensor:
    """<v, x>^2 / (|v|^2 |x|^2): how much of v is radial at x, (B, 1, …), in [0, 1]. v, x: (B, d, …)."""
    v, x = at_least_float32(v), at_least_float32(x)
    return _dot(v, x).square() / (_dot(v, v) * _dot(x, x)).clamp_min(_TINY)


def _slerp(a: Tensor, b: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The direction between unit tokens a and b at sigma, and its derivative. In the frame of a and e, not by arccos,

    which in float32 gives NaN for omega <= 1e-4 and errors of 1.7 near pi.
    """
    c = _dot(a, b)
    q = b - c * a
    q = q - _dot(q, a) * a  # twice is enough: near 0 and pi the first difference keeps a part along a
    length = torch.linalg.vector_norm(q, dim=1, keepdim=True)
    e = q / length.clamp_min(_TINY)
    omega = torch.atan2(length, c)
    cos, sin = torch.cos(sigma * omega), torch.sin(sigma * omega)
    return cos * a + sin * e, omega * (cos * e - sin * a)


def tokens_of(image: Tensor) -> Tensor:
    """(B, d, …) from latents of that shape, or from FLUX's packed ones, (B, L, d * 2 * 2) to (B, d, L, 4)."""
    return image.unflatten(-1, (-1, 4)).movedim(2, 1) if image.ndim == 3 else image


def as_it_came(tokens: Tensor, image: Tensor) -> Tensor:
    """Tokens in the shape and dtype of the image that they were taken from."""
    return (tokens.movedim(1, 2).flatten(2) if image.ndim == 3 else tokens).to(image.dtype)


def at_least_float32(value: Tensor) -> Tensor:
    """Of any shape. float64 stays; anything narrower than float32 is widened."""
    return value if value.dtype in (torch.float32, torch.float64) else value.float()


def _as_column(sigma: Tensor, like: Tensor) -> Tensor:
    sigma = sigma.to(like)
    return sigma.view(-1, *[1] * (like.ndim - 1)) if sigma.ndim == 1 else sigma


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=1, keepdim=True)


def _norm(v: Tensor) -> Tensor:
    return torch.linalg.vector_norm(v, dim=1, keepdim=True)
