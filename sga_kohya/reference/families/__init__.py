"""The pipelines that the reference trainer trains. A new one is a file here and a line in FAMILIES."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the names are for --help, which does without torch
    from sga_kohya.reference.family import Family

FAMILIES = {
    "FluxPipeline": "flux",
    "Flux2Pipeline": "flux2",
    "Flux2KleinPipeline": "flux2",
    "StableDiffusion3Pipeline": "sd3",
    "AuraFlowPipeline": "auraflow",
    "PixArtAlphaPipeline": "pixart",
    "PixArtSigmaPipeline": "pixart",
    "QwenImagePipeline": "qwen_image",
    "SanaPipeline": "sana",
    "ZImagePipeline": "z_image",
    "StableDiffusionPipeline": "unet",
    "StableDiffusionXLPipeline": "unet",
}
"""Class of a diffusers pipeline -> the file here whose FAMILY says how to train it."""


def family_of(pipeline: str) -> Family:
    """The record of a pipeline's class. Raises KeyError for one that FAMILIES lacks."""
    return import_module(f"{__name__}.{FAMILIES[pipeline]}").FAMILY


def trained_as(arch: str) -> list[str]:
    """The pipelines whose network is of that kind, "dit" or "unet"."""
    return [name for name in FAMILIES if family_of(name).arch == arch]
