"""The training scripts of musubi-tuner, and what of SGA fits them."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.kit.hints import did_you_mean
from sga_kohya.words import UPSTREAM

NORMAL_MODES = ("sigmoid", "shift", "flux_shift", "flux2_shift", "qwen_shift", "krea2_shift")
"""Values of timestep_sampling that are sigmoid(s * z) of a normal z, shifted or not; s is the host's sigmoid_scale."""


@dataclass(frozen=True)
class Family:
    """name: for messages. compression: pixels a latent pixel, along one side. step: what sides must be multiples of.

    video: whether it trains on clips. trainer: class that overrides how noise is mixed in, if its script has one.
    """

    name: str
    compression: int = 8
    step: int = 16
    video: bool = False
    trainer: str = ""


_FLUX_2 = Family("FLUX.2", compression=16)
_KONTEXT = Family("FLUX.1 Kontext")
_QWEN = Family("Qwen-Image")
_Z_IMAGE = Family("Z-Image")
_WAN = Family("Wan", video=True, trainer="WanNetworkTrainer")
_HIDREAM = Family("HiDream-O1", compression=1, step=32, trainer="HiDreamO1NetworkTrainer")
SCRIPTS = {
    "flux_2_train_network": _FLUX_2,
    "flux_kontext_train_network": _KONTEXT,
    "qwen_image_train_network": _QWEN,
    "qwen_image_train": _QWEN,
    "zimage_train_network": _Z_IMAGE,
    "zimage_train": _Z_IMAGE,
    "wan_train_network": _WAN,
    "hv_train_network": Family("HunyuanVideo", video=True),
    "hv_1_5_train_network": Family("HunyuanVideo 1.5", compression=16, video=True),
    "fpack_train_network": Family("FramePack", video=True),
    "kandinsky5_train_network": Family("Kandinsky 5", video=True),
    "krea2_train_network": Family("Krea 2"),
    "ideogram4_train_network": Family("Ideogram 4"),
    "hidream_o1_train_network": _HIDREAM,
    "hidream_o1_train": _HIDREAM,
}
REFUSED = {
    "hv_train": "it is broken in musubi-tuner itself since v0.2.13; hv_train_network trains adapters",
    "flux_2_train_network_self_flow": "its self-flow is a skeleton without a loss; use flux_2_train_network",
}
_EXCLUDED = {
    "fused_backward_pass": "it steps the optimizer inside backward, before the tuple's other slices were seen",
}


def refuse(script: str) -> None:
    """Raises SgaError where there is no door for a script."""
    if script in REFUSED:
        raise SgaError(f"{script} cannot be trained with SGA: {REFUSED[script]}")
    if script not in SCRIPTS:
        raise SgaError(f"there is no door for {script!r}: {did_you_mean(script, SCRIPTS)}")


def check(options: Mapping[str, Any], config: SgaConfig) -> None:
    """Raises SgaError for what cannot work, from words and files alone. options: see options.read_options."""
    if not config.enabled:
        return
    for name, reason in _EXCLUDED.items():
        if config.tuples and options.get(name) not in (None, False, "false"):
            raise SgaError(f"--{name} excludes tuples: {reason}. Leave it out, or set --sga_tuples=false")
    if config.path != "linear":
        raise SgaError(f"sga_path={config.path} is for sd-scripts: musubi-tuner's samplers walk straight. Leave it out")
    if config.flow_snr_weight:
        raise SgaError("sga_flow_snr_weight weights each sample, and musubi-tuner averages its loss: leave it out")


def check_mode(config: SgaConfig, args: argparse.Namespace) -> None:
    """Raises SgaError where the sampling mode has no z that upstream's form of the shift could move."""
    if not config.modulation:
        return
    if config.timestep_shift_form == UPSTREAM and args.timestep_sampling not in NORMAL_MODES:
        raise SgaError(
            "sga_timestep_shift_form=upstream is sigmoid(s*(z + Delta)), and timestep_sampling="
            f"{args.timestep_sampling} has no such z: use logit, which fits every mode, or one of "
            f"{', '.join(NORMAL_MODES)}"
        )
    if not set(config.timestep_shift) & set(config.granularities):
        raise SgaError(
            f"sga_timestep_shift names none of {','.join(config.granularities)}: write it for them, or set "
            "--sga_modulation=false"
        )
