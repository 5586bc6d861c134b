"""One view of every VAE: pixels to normalised latents and back, with the decoder that can be trained and saved."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sga_kohya.errors import SgaError
from sga_kohya.kit.files import whole_file, whole_folder, write_whole


class Autoencoder(nn.Module):
    """Latents are the mean of the posterior, (z - shift) * scale, as models train on them; pixels are in [-1, 1].

    channels: of latents, the token's d. factor: pixels that a latent pixel's side covers.
    """

    channels: int
    factor: int

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, channels, H / factor, W / factor)."""
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """(B, channels, h, w) to (B, 3, h * factor, w * factor)."""
        raise NotImplementedError

    def decoding(self) -> nn.ModuleList:
        """What turns latents into pixels, and is trained."""
        raise NotImplementedError

    def save(self, folder: Path, metadata: dict[str, str]) -> Path:
        """Write the whole VAE, in the form in which it was read where possible. Returns the file or folder."""
        raise NotImplementedError

    def forward(self, latents: Tensor) -> Tensor:
        return self.decode(latents)


class DiffusersAutoencoder(Autoencoder):
    """An AutoencoderKL of diffusers, or a class of the same interface. Saved as a folder."""

    mean: Tensor
    std: Tensor

    def __init__(self, vae: Any, scale: float | None = None, shift: float | None = None):
        super().__init__()
        if hasattr(vae, "bn"):
            raise SgaError(f"{type(vae).__name__} normalises packed latents by running statistics: not supported yet")
        if scale is not None:  # a saved folder must say it, whatever the loader of the file has put there
            vae.register_to_config(scaling_factor=scale, shift_factor=shift)
        self.vae, config = vae, vae.config
        per_channel = config.get("latents_mean") is not None and config.get("latents_std") is not None
        mean, std = (config.latents_mean, config.latents_std) if per_channel else ([0.0], [1.0])
        scale = config.get("scaling_factor") or 1.0
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1) + (config.get("shift_factor") or 0))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1) / scale)
        self.channels = config.latent_channels
        blocks = config.get("block_out_channels") or config.get("encoder_block_out_channels")
        self.factor = config.get("spatial_compression_ratio") or 2 ** (len(blocks) - 1)

    def encode(self, images: Tensor) -> Tensor:
        found = self.vae.encode(images)[0]
        z = found if isinstance(found, Tensor) else found.mode()  # AutoencoderDC and AutoencoderTiny have no posterior
        return (z - self.mean) / self.std

    def decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents * self.std + self.mean).sample

    def decoding(self) -> nn.ModuleList:
        after = getattr(self.vae, "post_quant_conv", None)
        return nn.ModuleList([self.vae.decoder, *([after] if after is not None else [])])

    def save(self, folder: Path, metadata: dict[str, str]) -> Path:
        target = folder / "vae"
        with whole_folder(target) as part:
            self.vae.save_pretrained(part)
            weights = part / "diffusion_pytorch_model.safetensors"
            save_file(_contiguous(self.vae), weights, {"format": "pt", **metadata})
            write_whole(part / "decoder.json", json.dumps(metadata, indent=1))
        return target


class HostFileAutoencoder(Autoencoder):
    """FLUX's or SD3's VAE as sd-scripts reads it. Saved as a file with the same tensors."""

    def __init__(self, module: Any, scale: float, shift: float):
        super().__init__()
        self.module, self.scale, self.shift = module, scale, shift
        with torch.no_grad():
            sample = module.encoder(torch.zeros(1, 3, 64, 64))
        self.channels, self.factor = sample.shape[1] // 2, 64 // sample.shape[-1]

    def encode(self, images: Tensor) -> Tensor:
        mean, _ = self.module.encoder(images).chunk(2, dim=1)  # not module.encode, which draws from the posterior
        return (mean - self.shift) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        return self.module.decoder(latents / self.scale + self.shift)

    def decoding(self) -> nn.ModuleList:
        return nn.ModuleList([self.module.decoder])

    def save(self, folder: Path, metadata: dict[str, str]) -> Path:
        target = folder / "ae.safetensors"
        with whole_file(target) as part:
            save_file(_contiguous(self.module), part, {"format": "pt", **metadata})
        return target


def load_autoencoder(path: Path, kind: str | None, sd_scripts: str | None = None) -> Autoencoder:
    """A diffusers folder, or with `kind` (flux, sd3, sd, sdxl) a file as sd-scripts takes it.

    Frozen, in float32, on the CPU. Raises SgaError naming what is wrong.
    """
    if path.is_dir():
        found: Autoencoder = DiffusersAutoencoder(_from_folder(path))
    elif not path.is_file():
        raise SgaError(f"{path}: there is no such file or folder; give a VAE file, or a diffusers VAE folder")
    elif kind is None:
        raise SgaError(f"{path} is a file: say by --kind flux, sd3, sd or sdxl whose VAE it is")
    else:
        from sga_kohya.hosts.sd_scripts.autoencoder import load_autoencoder as load_host
        from sga_kohya.hosts.sd_scripts.checkout import find_checkout

        host = load_host(kind, path, find_checkout(sd_scripts))
        wrap = HostFileAutoencoder if kind in ("flux", "sd3") else DiffusersAutoencoder
        found = wrap(host.module, host.scale, host.shift)
    return found.requires_grad_(False).eval()


def _from_folder(folder: Path) -> Any:
    import diffusers

    folder = folder if (folder / "config.json").is_file() else folder / "vae"
    if not (folder / "config.json").is_file():
        raise SgaError(f"{folder.parent}: no config.json there, nor in its folder vae: give a diffusers VAE's folder")
    name = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_class_name", "AutoencoderKL")
    kind = getattr(diffusers, name, None)
    if kind is None:
        raise SgaError(f"{folder} is a {name}, which diffusers {diffusers.__version__} does not know: update diffusers")
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise SgaError(f"{folder} cannot be loaded: {str(error).partition(chr(10))[0]}") from error


def _contiguous(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
