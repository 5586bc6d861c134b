"""Images from a model: Euler steps or those of a path for flow matching, DDIM for epsilon and v-prediction."""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sga_kohya.reference.scheduler import PathScheduler
from sga_kohya.reference.stack import Stack


@torch.no_grad()
def sample(stack: Stack, captions: Sequence[str], size: tuple[int, int], steps: int = 28, seed: int = 0) -> Tensor:
    """One image a caption, of size (width, height) in pixels. Returns (B, 3, H, W), in [-1, 1], on the CPU."""
    model, scheduler = stack.denoiser.model, copy.deepcopy(stack.scheduler)
    width, height = (side // stack.codec.factor for side in size)
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn((len(captions), stack.codec.channels, height, width), generator=generator).to(model.device)
    text = stack.text(captions).to(model.device)
    if isinstance(scheduler, PathScheduler):
        latents = scheduler.prior(latents)
    if stack.family.flow:
        mu = stack.sampling_mu(height, width, steps)
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=mu, device=model.device)
    else:
        scheduler.set_timesteps(steps, device=model.device)
    for timestep in scheduler.timesteps:
        prediction = stack.denoiser(latents, timestep.expand(len(latents)), *text)
        latents = scheduler.step(prediction, timestep, latents).prev_sample
    with stack.codec.on(latents.device):  # one by one: beside the network there is room for no more
        return torch.cat([stack.codec.decode(one).cpu() for one in latents.split(1)])


def save_images(images: Tensor, folder: Path, stem: str) -> None:
    """images: (B, 3, H, W), in [-1, 1]. Writes STEM-0.png, STEM-1.png, …"""
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        pixels = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{stem}-{index}.png")
