"""A small VAE trained on the spot, for the ablation: AutoencoderKL of diffusers, L1 and a little KL."""

import random
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import tqdm

from sga_kohya.kit.files import whole_folder

CHANNELS = 16  # d of FLUX.1 and SD3
KL_WEIGHT = 1e-3


def train_tokenizer(images: Tensor, folder: Path, steps: int, batch_size: int = 32, seed: int = 0) -> Path:
    """Train on images (N, 3, H, W) in [-1, 1] and save to `folder`, whole or not at all. Returns the folder.

    Its scaling_factor makes latents of unit deviation, as published VAEs have it.
    """
    if (folder / "config.json").is_file():
        return folder
    torch.manual_seed(seed)
    vae: Any = AutoencoderKL(  # diffusers shows type checkers a stand-in without methods
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[16, 32, 64],
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=CHANNELS,
        mid_block_add_attention=False,
    )
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3)
    rng = random.Random(seed)
    for _ in (bar := tqdm(range(steps), desc="tokenizer", unit="step")):
        batch = images[rng.sample(range(len(images)), batch_size)]
        posterior = vae.encode(batch).latent_dist
        difference = (vae.decode(posterior.sample()).sample - batch).abs().mean()
        loss = difference + KL_WEIGHT * posterior.kl().mean() / batch[0, 0].numel()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        bar.set_postfix(L1=f"{difference.item():.3f}", refresh=False)
    with torch.no_grad():
        latents = vae.encode(images[rng.sample(range(len(images)), min(256, len(images)))]).latent_dist.mode()
    vae.register_to_config(scaling_factor=1 / latents.std().item(), shift_factor=latents.mean().item())
    with whole_folder(folder) as part:
        vae.save_pretrained(part)
    return folder
