"""The training scripts of musubi-tuner, and what of SGA fits them."""

import argparse
from dataclasses import dataclass

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.hosts.shift import check_form, check_table
from sga_kohya.kit.hints import did_you_mean
from sga_kohya.words import TIMESTEP_SHIFT

HOST = "musubi-tuner"
NORMAL_MODES = ("sigmoid", "shift", "flux_shift", "flux2_shift", "qwen_shift", "krea2_shift")
"""Values of timestep_sampling that are sigmoid(s * z) of a normal z, shifted or not; s is the host's sigmoid_scale."""


@dataclass(frozen=True)
class Family:
    """name: for messages. lora: the module of its own adapters. compression: pixels a latent pixel, along one side.

    patch: latent pixels a token, along one side. videos: whether clips train beside images.
    trainer: class that overrides how noise is mixed in, if its script has one. pixels: whether its latents are the
    pixels themselves, (B, H, W, values) in patches, where others have (B, C, …, H, W).
    """

    name: str
    lora: str
    compression: int = 8
    patch: int = 2
    videos: bool = False
    trainer: str = ""
    pixels: bool = False

    @property
    def network(self) -> str:
        """The network_module of its own adapters."""
        return f"networks.{self.lora}"

    def latent_size(self, size: tuple[int, ...]) -> tuple[int, int]:
        """What the host takes for a latent's width and height, its last two sides, when it draws noise levels."""
        width, height = size[0] // self.compression, size[1] // self.compression
        return (3 * self.compression**2, width) if self.pixels else (width, height)

    def tokens(self, frames: int, height: int, width: int) -> int:
        """Of latents of this shape. What a model is given beside them, such as text and FramePack's past, is more."""
        return frames * -(-height // self.patch) * -(-width // self.patch)


_FLUX_2 = Family("FLUX.2", "lora_flux_2", compression=16, patch=1)
_QWEN = Family("Qwen-Image", "lora_qwen_image")
_Z_IMAGE = Family("Z-Image", "lora_zimage")
_HIDREAM = Family(
    "HiDream-O1", "lora_hidream_o1", compression=32, patch=1, trainer="HiDreamO1NetworkTrainer", pixels=True
)
SCRIPTS = {
    "flux_2_train_network": _FLUX_2,
    "flux_kontext_train_network": Family("FLUX.1 Kontext", "lora_flux"),
    "qwen_image_train_network": _QWEN,
    "qwen_image_train": _QWEN,
    "zimage_train_network": _Z_IMAGE,
    "zimage_train": _Z_IMAGE,
    "wan_train_network": Family("Wan", "lora_wan", videos=True, trainer="WanNetworkTrainer"),
    "hv_train_network": Family("HunyuanVideo", "lora", videos=True),
    "hv_1_5_train_network": Family("HunyuanVideo 1.5", "lora_hv_1_5", compression=16, patch=1, videos=True),
    "fpack_train_network": Family("FramePack", "lora_framepack", videos=True),
    "kandinsky5_train_network": Family("Kandinsky 5", "lora_kandinsky", videos=True),
    "krea2_train_network": Family("Krea 2", "lora_krea2"),
    "ideogram4_train_network": Family("Ideogram 4", "lora_ideogram4", compression=16, patch=1),
    "hidream_o1_train_network": _HIDREAM,
    "hidream_o1_train": _HIDREAM,
}
REFUSED = {
    "hv_train": "it is broken in musubi-tuner itself since v0.2.13; hv_train_network trains adapters",
    "flux_2_train_network_self_flow": "its self-flow is a skeleton without a loss; use flux_2_train_network",
}


def with_videos() -> str:
    """The scripts that train on clips, in words."""
    return ", ".join(script for script, family in SCRIPTS.items() if family.videos)


def refuse(script: str) -> None:
    """Raises SgaError where there is no door for a script."""
    if script in REFUSED:
        raise SgaError(f"{script} cannot be trained with SGA: {REFUSED[script]}")
    if script not in SCRIPTS:
        raise SgaError(f"there is no door for {script!r}: {did_you_mean(script, SCRIPTS)}")


def script_of_network(module: object) -> str | None:
    """The script that trains adapters of a network_module; None of modules that sd-scripts has as well."""
    shared = ("lora", "lora_flux")
    found = (script for script, family in SCRIPTS.items() if family.network == module and family.lora not in shared)
    return next(found, None)


def trains_adapter(script: str) -> bool:
    return script.endswith("_network")


def check_mode(config: SgaConfig, args: argparse.Namespace, family: Family) -> None:
    """Raises SgaError where the settings ask for a modulation that the sampling mode does not have."""
    if config.modulates:
        check_form(config, args.timestep_sampling, family.name, NORMAL_MODES)
        check_table(config, TIMESTEP_SHIFT, family.name)
