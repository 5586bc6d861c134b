"""`python -m sga_kohya.spherical probe VAE IMAGES`: does this tokenizer suit spherical flow matching?"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sga_kohya.equations.paths import project
from sga_kohya.errors import SgaError
from sga_kohya.kit.files import write_whole
from sga_kohya.kit.text import safe
from sga_kohya.spherical import measures
from sga_kohya.spherical.autoencoders import Autoencoder, load_autoencoder
from sga_kohya.spherical.images import find_images, load_squares, save_grid
from sga_kohya.spherical.perceptual import DINO, available_distances

SHOWN = 6


@dataclass(frozen=True)
class ProbeOptions:
    """The command line's options of the same names; see __main__.py."""

    vae: Path
    images: Path
    out: Path
    kind: str | None = None
    resolution: int = 256
    count: int = 32
    batch_size: int = 4
    dino: str = DINO
    seed: int = 0
    device: str | None = None
    sd_scripts: str | None = None


def run(options: ProbeOptions) -> dict[str, Any]:
    """Measure, write OUT/probe.json, probe.html and images, and return the figures. Raises SgaError for bad input."""
    files = find_images(options.images)[: options.count]
    if len(files) < 2:
        raise SgaError(f"{options.images} holds one image; the probe swaps parts of two, so give at least two")
    autoencoder = load_autoencoder(options.vae, options.kind, options.sd_scripts)
    if options.resolution % autoencoder.factor:
        raise SgaError(f"--resolution {options.resolution}: this VAE needs a multiple of {autoencoder.factor}")
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    figures, grid = measure(autoencoder.to(device), files, options, device)
    options.out.mkdir(parents=True, exist_ok=True)
    save_grid(grid, options.out / "swap.png")
    write_whole(options.out / "probe.json", json.dumps(figures, indent=1))
    from sga_kohya.spherical.check_page import write_report  # it needs matplotlib; the figures are safe by now

    write_report(figures, options.out)
    return figures


@torch.no_grad()
def measure(
    autoencoder: Autoencoder, files: list[Path], options: ProbeOptions, device: torch.device
) -> tuple[dict[str, Any], list[Tensor]]:
    """All figures, and rows of images for the grid."""
    distances, absent = available_distances(options.dino)
    pixels, z = _encoded(autoencoder, files, options, device)
    with tqdm(desc="decode", unit="batch") as bar:

        def decode(values: Tensor) -> Tensor:
            done = []
            for part in values.split(options.batch_size):
                done.append(autoencoder.decode(part.to(device)).float().cpu())
                bar.update()
            return torch.cat(done)

        swap, rows = measures.component_swap(z, decode, distances)
        generator = torch.Generator().manual_seed(options.seed)
        figures: dict[str, Any] = {
            "vae": safe(options.vae.name),
            "kind": options.kind or "diffusers",
            "images": len(files),
            "resolution": options.resolution,
            "channels": autoencoder.channels,
            "distances": list(distances),
            "absent": absent,
            "norms": measures.norms(z),
            "paths": measures.along_paths(z, generator),
            "sigmas": measures.SIGMAS,
            "component_swap": swap,
            "perturbation": measures.perturbation(z, decode, distances, generator),
            "angles": measures.ANGLES,
            "projection_cost": measures.projection_cost(z, pixels, decode, distances),
        }
        figures["verdict"], figures["why"] = measures.verdict(figures)
        return figures, [row[:SHOWN] for row in (pixels, *rows, decode(project(z)))]


def _encoded(
    autoencoder: Autoencoder, files: list[Path], options: ProbeOptions, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The photos (B, 3, H, W), in [-1, 1], and their latents, both on the CPU."""
    images, latents = [], []
    for start in tqdm(range(0, len(files), options.batch_size), desc="encode", unit="batch"):
        images.append(load_squares(files[start : start + options.batch_size], options.resolution))
        latents.append(autoencoder.encode(images[-1].to(device)).float().cpu())
    return torch.cat(images), torch.cat(latents)
