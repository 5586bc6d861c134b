"""Between pixels and latents: averaged pixels, or a local diffusers VAE."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
from diffusers.training_utils import free_memory
from torch import Tensor

from sga_kohya.errors import SgaError
from sga_kohya.reference.folders import here, need_diffusers, read_vae


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

    def on(self, device: torch.device) -> contextlib.AbstractContextManager[None]:
        """There is nothing to move."""
        return contextlib.nullcontext()


class VaeCodec:
    """A diffusers AutoencoderKL; latents are the mean of its posterior, shifted and scaled as its config says.

    It computes in the type of its weights, on the CPU but within `on`; images and latents are float32 by all means.

    Those of other VAEs differ in factor and channels, in `units`, and in what the VAE takes and gives.
    """

    def __init__(self, vae: Any):
        self.vae = vae.requires_grad_(False).eval()
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.channels = vae.config.latent_channels

    def encode(self, images: Tensor) -> Tensor:
        shift, scale = self.units()
        return (self.from_vae(images.to(self.vae.device, self.vae.dtype)).float() - shift) * scale

    def decode(self, latents: Tensor) -> Tensor:
        shift, scale = self.units()
        return self.to_vae((latents.to(self.vae.device) / scale + shift).to(self.vae.dtype)).float().clamp(-1, 1)

    def units(self) -> tuple[Any, Any]:
        """Shift and scale: numbers, or (1, channels, 1, 1)."""
        return self.vae.config.shift_factor or 0.0, self.vae.config.scaling_factor

    def from_vae(self, images: Tensor) -> Tensor:
        return self.vae.encode(images).latent_dist.mode()

    def to_vae(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents).sample

    @contextlib.contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """Compute on that device, and rest on the CPU afterwards."""
        self.vae.to(device)
        try:
            yield
        finally:
            self.vae.to("cpu")
            free_memory()


class Flux2Codec(VaeCodec):
    """FLUX.2's: the four latents of a square are channels of one, and a batch norm's statistics are their units."""

    def __init__(self, vae: Any):
        super().__init__(vae)
        self.factor, self.channels = 2 * self.factor, 4 * self.channels

    def units(self) -> tuple[Tensor, Tensor]:
        norm = self.vae.bn
        mean, variance = (numbers.float().view(1, -1, 1, 1) for numbers in (norm.running_mean, norm.running_var))
        return mean, (variance + self.vae.config.batch_norm_eps).rsqrt()

    def from_vae(self, images: Tensor) -> Tensor:
        return F.pixel_unshuffle(super().from_vae(images), 2)

    def to_vae(self, latents: Tensor) -> Tensor:
        return super().to_vae(F.pixel_shuffle(latents, 2))


class QwenCodec(VaeCodec):
    """Qwen-Image's, of clips: an image is one frame, and every channel has its own mean and deviation."""

    def __init__(self, vae: Any):
        self.vae = vae.requires_grad_(False).eval()
        self.factor, self.channels = 2 ** len(vae.config.temperal_downsample), vae.config.z_dim

    def units(self) -> tuple[Tensor, Tensor]:
        lists = self.vae.config.latents_mean, self.vae.config.latents_std
        mean, deviation = (torch.tensor(numbers, device=self.vae.device).view(1, -1, 1, 1) for numbers in lists)
        return mean, 1 / deviation

    def from_vae(self, images: Tensor) -> Tensor:
        return super().from_vae(images.unsqueeze(2)).squeeze(2)

    def to_vae(self, latents: Tensor) -> Tensor:
        return super().to_vae(latents.unsqueeze(2)).squeeze(2)


class DeepCodec(VaeCodec):
    """Sana's DC-AE: no posterior and no shift, and few latents."""

    def __init__(self, vae: Any):
        self.vae = vae.requires_grad_(False).eval()
        self.factor = 2 ** (len(vae.config.encoder_block_out_channels) - 1)
        self.channels = vae.config.latent_channels

    def units(self) -> tuple[float, float]:
        return 0.0, self.vae.config.scaling_factor

    def from_vae(self, images: Tensor) -> Tensor:
        return self.vae.encode(images).latent


Codec = PooledPixels | VaeCodec

CODECS: dict[str, tuple[type[VaeCodec], str]] = {
    "AutoencoderKL": (VaeCodec, "0.32"),
    "AutoencoderDC": (DeepCodec, "0.32"),
    "AutoencoderKLFlux2": (Flux2Codec, "0.36"),
    "AutoencoderKLQwenImage": (QwenCodec, "0.35"),
}
"""Class of a diffusers VAE -> its codec, and the first version of diffusers that has it."""


def codec_of(vae: Any, what: str) -> VaeCodec:
    """what: the option and folder that it came from. Raises SgaError for a VAE that CODECS lacks."""
    return _known(type(vae).__name__, what)[0](vae)


def load_vae(folder: Path, dtype: torch.dtype = torch.float32) -> VaeCodec:
    """A local folder of a diffusers VAE. Raises SgaError if it is none of CODECS, or cannot be loaded."""
    name, what = read_vae(folder)["_class_name"], f"--vae {folder}"
    codec, since = _known(name, what)
    need_diffusers(since, f"{what}, a {name},")
    return codec(getattr(diffusers, name).from_pretrained(folder, **here(dtype)))


def _known(name: str, what: str) -> tuple[type[VaeCodec], str]:
    if name not in CODECS:
        raise SgaError(f"{what}: the VAE is a {name}; known are {', '.join(CODECS)}")
    return CODECS[name]
