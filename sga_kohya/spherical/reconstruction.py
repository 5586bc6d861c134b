"""How well a decoder gives photos back: PSNR, SSIM and, where it is at hand, LPIPS."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sga_kohya.equations.paths import project
from sga_kohya.spherical.autoencoders import Autoencoder
from sga_kohya.spherical.perceptual import Distance, psnr, ssim


@dataclass
class Reconstruction:
    """figures: metric -> mean over the images. images: (B, 3, H, W), in [-1, 1], on the CPU."""

    figures: dict[str, float]
    images: Tensor


@torch.no_grad()
def reconstruct(
    autoencoder: Autoencoder, photos: Tensor, lpips: Distance | None, spherical: bool, batch_size: int
) -> Reconstruction:
    """photos: (B, 3, H, W), in [-1, 1]. spherical: project the latents between encoder and decoder."""
    device = next(autoencoder.parameters()).device
    metrics: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"PSNR": psnr, "SSIM": ssim}
    if lpips is not None:
        metrics["LPIPS"] = lpips
    decoded: list[Tensor] = []
    values: dict[str, list[Tensor]] = {name: [] for name in metrics}
    for batch in photos.to(device).split(batch_size):
        latents = autoencoder.encode(batch)
        images = autoencoder.decode(project(latents) if spherical else latents).float().clamp(-1, 1)
        decoded.append(images.cpu())
        for name, metric in metrics.items():
            values[name].append(metric(images, batch).flatten().cpu())
    return Reconstruction({name: torch.cat(v).mean().item() for name, v in values.items()}, torch.cat(decoded))


def table(rows: Mapping[str, Reconstruction]) -> str:
    """One line a decoder."""
    names = list(next(iter(rows.values())).figures)
    lines = [f"{'reconstruction of held-out photos':<44}" + "".join(f"{name:>9}" for name in names)]
    for label, row in rows.items():
        lines.append(f"  {label:<42}" + "".join(f"{row.figures[name]:>9.3f}" for name in names))
    return "\n".join(lines)
