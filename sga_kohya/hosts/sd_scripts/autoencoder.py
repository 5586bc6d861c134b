"""The VAE files that sd-scripts trains with, read by its own loaders; no seam, nothing is replaced."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.hosts.sd_scripts.checkout import Checkout
from sga_kohya.hosts.seam import install
from sga_kohya.training.session import Session

KINDS = ("flux", "sd3", "sd", "sdxl")


@dataclass
class HostAutoencoder:
    """module: has encoder and decoder, or for SD and SDXL is a diffusers AutoencoderKL.

    Latents that a model trains on are (z - shift) * scale of the encoder's z.
    """

    module: Any
    scale: float
    shift: float


def load_autoencoder(kind: str, file: Path, checkout: Checkout) -> HostAutoencoder:
    """Read a VAE file in float32 on the CPU. kind: one of KINDS. Raises SgaError if it is none of that kind."""
    with install([], Session(SgaConfig(enabled=False)), checkout.package):  # only so that `library` is this checkout's
        try:
            loaded = _LOADERS[kind](str(file))
        except (RuntimeError, KeyError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise SgaError(f"{file} is not read as a VAE of --kind {kind} ({reason}): give the right kind") from error
    missing = [name for name, value in loaded.module.named_parameters() if value.is_meta]
    if missing:
        raise SgaError(f"{file} is no VAE of --kind {kind}: it lacks {missing[0]} and {len(missing) - 1} more tensors")
    return loaded


def _flux(file: str) -> HostAutoencoder:
    module = import_module("library.flux_utils").load_ae(file, torch.float32, "cpu")
    return HostAutoencoder(module, module.scale_factor, module.shift_factor)


def _sd3(file: str) -> HostAutoencoder:
    models = import_module("library.sd3_models")
    module = import_module("library.sd3_utils").load_vae(file, torch.float32, "cpu")
    return HostAutoencoder(module, models.VAE_SCALE_FACTOR, models.VAE_SHIFT_FACTOR)


def _sd(file: str) -> HostAutoencoder:
    return HostAutoencoder(import_module("library.model_util").load_vae(file, torch.float32), 0.18215, 0.0)


def _sdxl(file: str) -> HostAutoencoder:
    scale = import_module("library.sdxl_model_util").VAE_SCALE_FACTOR
    return HostAutoencoder(import_module("library.model_util").load_vae(file, torch.float32), scale, 0.0)


_LOADERS = dict(zip(KINDS, (_flux, _sd3, _sd, _sdxl), strict=True))
