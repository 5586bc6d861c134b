"""What the probes of arXiv:2605.15193 measure: how latents lie, what paths do to them, and what carries the picture."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sga_kohya.equations.paths import PATHS, project, radial_share, unit
from sga_kohya.spherical.perceptual import Distance

SIGMAS = tuple(i / 20 for i in range(21))
ANGLES = (0.1, 0.2, 0.4, 0.8)
"""Radians of the tangent perturbation."""


def norms(latents: Tensor) -> dict[str, float]:
    """Of the tokens: CV = std|z| / mean|z|; mean|z| / sqrt(d); and the CV of Gaussian tokens, about 1 / sqrt(2d).

    latents: (B, d, H, W).
    """
    d, length = latents.shape[1], latents.norm(dim=1)
    return {
        "norm_cv": (length.std() / length.mean()).item(),
        "mean_norm_over_sqrt_d": (length.mean() / math.sqrt(d)).item(),
        "gaussian_cv": 1 / math.sqrt(2 * d),
    }


def along_paths(latents: Tensor, generator: torch.Generator) -> dict[str, dict[str, list[float]]]:
    """For each mode, over SIGMAS: the radial share of its velocity, mean |x| / sqrt(d), and the off-shell distance.

    The last is the least over both ends of |mean|x_sigma| - r_e| / sigma_e, where r_e and sigma_e are mean and standard
    deviation of the norms at that end as the model has them before any projection: of the latents and of the noise.
    """
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    shells = [(v.norm(dim=1).mean(), v.norm(dim=1).std()) for v in (latents, noise)]
    found = {}
    for name, path in PATHS.items():
        # A projected end lies at sqrt(d) exactly; its shell is as thick as that of the Gaussian noise.
        ends = [(torch.tensor(math.sqrt(latents.shape[1])), shells[1][1])] * 2 if path.spherical else shells
        curves: dict[str, list[float]] = {"radial_share": [], "norm": [], "off_shell": []}
        for sigma in SIGMAS:
            x, velocity = path.at(latents, noise, torch.tensor(sigma))
            length = x.norm(dim=1).mean()
            curves["radial_share"].append(radial_share(velocity, x).mean().item())
            curves["norm"].append(length.item() / math.sqrt(latents.shape[1]))
            curves["off_shell"].append(min(((length - r).abs() / s.clamp_min(1e-6)).item() for r, s in ends))
        found[name] = curves
    return found


def component_swap(
    latents: Tensor, decode: Callable[[Tensor], Tensor], distances: Mapping[str, Distance]
) -> tuple[dict[str, dict[str, float]], list[Tensor]]:
    """How far a decode moves from the anchor's when its tokens take another image's radius, direction, or both.

    The other image is the next of the batch. Returns distance -> swap -> mean, and the decodes: anchor, radius,
    direction, both.
    """
    other = latents.roll(-1, dims=0)
    radius = latents.norm(dim=1, keepdim=True)
    swapped = {
        "radius": other.norm(dim=1, keepdim=True) * unit(latents),
        "direction": radius * unit(other),
        "both": other,
    }
    anchor, decoded = decode(latents), {name: decode(z) for name, z in swapped.items()}
    means = {
        name: {swap: distance(image, anchor).mean().item() for swap, image in decoded.items()}
        for name, distance in distances.items()
    }
    return means, [anchor, *decoded.values()]


def perturbation(
    latents: Tensor,
    decode: Callable[[Tensor], Tensor],
    distances: Mapping[str, Distance],
    generator: torch.Generator,
    angles: Sequence[float] = ANGLES,
) -> dict[str, dict[str, list[float]]]:
    """Turning every token by an angle against changing its radius by the same chord.

    cos(th) z + sin(th) |z| tau, with tau a random unit tangent, lies 2 sin(th / 2) |z| away from z; the radial change
    is (1 - 2 sin(th / 2)) z. Returns distance -> tangent and radial -> one mean for each angle.
    """
    radius, direction = latents.norm(dim=1, keepdim=True), unit(latents)
    anchor = decode(latents)
    found: dict[str, dict[str, list[float]]] = {name: {"tangent": [], "radial": []} for name in distances}
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    tau = unit(noise - (noise * direction).sum(dim=1, keepdim=True) * direction)
    for angle in angles:
        turned = decode(radius * (math.cos(angle) * direction + math.sin(angle) * tau))
        shrunk = decode((1 - 2 * math.sin(angle / 2)) * latents)
        for name, distance in distances.items():
            found[name]["tangent"].append(distance(turned, anchor).mean().item())
            found[name]["radial"].append(distance(shrunk, anchor).mean().item())
    return found


def projection_cost(
    latents: Tensor, images: Tensor, decode: Callable[[Tensor], Tensor], distances: Mapping[str, Distance]
) -> dict[str, dict[str, float]]:
    """Distance of reconstructions to the images, as the decoder is: from its own latents, and from projected ones."""
    plain, projected = decode(latents), decode(project(latents))
    return {
        name: {
            "latents": distance(plain, images).mean().item(),
            "projected": distance(projected, images).mean().item(),
        }
        for name, distance in distances.items()
    }


def verdict(figures: Mapping[str, Any]) -> tuple[str, str]:
    """`suited`, `doubtful` or `unsuited`, and why. The bounds are this project's, not the paper's.

    The paper's three tokenizers have a CV of 0.16 to 0.23. What its method needs is that directions carry the picture:
    a swapped radius must move the decode much less than a swapped direction, by the best distance at hand.
    """
    name = next(n for n in ("LPIPS", "DINO", "pixels") if n in figures["component_swap"])
    swap, cv = figures["component_swap"][name], figures["norms"]["norm_cv"]
    share = swap["radius"] / max(swap["direction"], 1e-12)
    if not math.isfinite(share + cv):
        return "unsuited", "this VAE gives latents or decodes that are not finite, so nothing can be measured (–)"
    facts = (
        f"by {name}, a swapped radius moves the decode {share:.2f} times as far as a swapped direction, and token "
        f"norms vary by a CV of {cv:.2f}"
    )
    if share <= 1 / 3 and cv <= 0.3:
        return "suited", f"{facts}: directions carry the picture and little is lost on the sphere"
    if share <= 2 / 3 and cv <= 0.6:
        return "doubtful", f"{facts}: radii carry part of the picture, so a decoder must learn to do without them"
    return "unsuited", f"{facts}: the sphere would lose what the radii say"
