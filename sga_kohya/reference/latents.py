"""Between pixels and latents: averaged pixels, or a local diffusers VAE."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from sga_kohya.errors import SgaError


class PooledPixels:
    """Latents without a VAE: images averaged over factor x factor pixels, times two to be of about unit variance.

    Of every codec: images (B, 3, H, W) in [-1, 1], latents (B, channels, H / factor, W / factor).
    factor: pixels that a latent pixel's side covers; channels: of latents.
    """

    def __init__(self, factor: int):
        self.factor, self.channels = factor, 3

    def encode(self, images: Tensor) -> Tensor:
        return 2 * F.avg_pool2d(images, self.factor)

    def decode(self, latents: Tensor) -> Tensor:
        return F.interpolate(latents / 2, scale_factor=float(self.factor), mode="bicubic").clamp(-1, 1)

    def to(self, device: torch.device) -> None:
        """There is nothing to move."""


class VaeCodec:
    """A diffusers VAE; latents are the mean of its posterior, scaled as its config says."""

    def __init__(self, vae: Any):
        self.vae = vae.requires_grad_(False).eval()
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.channels = vae.config.latent_channels
        self.scale, self.shift = vae.config.scaling_factor, vae.config.shift_factor or 0.0

    def encode(self, images: Tensor) -> Tensor:
        return (self.vae.encode(images.to(self.vae.device)).latent_dist.mode() - self.shift) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents / self.scale + self.shift).sample.clamp(-1, 1)

    def to(self, device: torch.device) -> None:
        self.vae.to(device)


Codec = PooledPixels | VaeCodec


def load_vae(folder: Path) -> VaeCodec:
    """A local AutoencoderKL folder. Raises SgaError if it is none."""
    if not (folder / "config.json").is_file():
        raise SgaError(f"--vae {folder}: no config.json there; give the local folder of a diffusers AutoencoderKL")
    return VaeCodec(AutoencoderKL.from_pretrained(folder, local_files_only=True))
