"""Kinds of model: all that is known of each, which of them a script or its settings train, and what of SGA fits it.

In a run it is told from parsed arguments and not from the script's name, because a patched checkout and a caller from
Python have no door.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.hosts.shift import check_form, check_table
from sga_kohya.kit.safetensors_file import tensor_shapes
from sga_kohya.words import SNR_GAMMA, TIMESTEP_SHIFT

# Weights of the host's that follow the SNR. It multiplies all that are set, and Eq. 33 takes their place.
_OTHER_WEIGHTS = ("debiased_estimation_loss", "v_pred_like_loss", "scale_v_pred_loss_like_noise_pred")
_FLOW_WEIGHTS = ("sigma_sqrt", "cosmap")  # of weighting_scheme; its other values draw noise levels

NORMAL_MODES = ("sigmoid", "shift", "flux_shift")
"""Values of timestep_sampling that are sigmoid(s * z) of a normal z, shifted or not; s is the host's sigmoid_scale."""


@dataclass(frozen=True)
class Family:
    """A kind of model, with all that is known of it anywhere in this package.

    scripts: the network trainer, then full fine-tunes. inversion: the trainer of a new word. own: options that only its
    scripts have. tensor: a part of a tensor's name that only its checkpoints have. needed: options that it cannot start
    without. sampler: module of the function that draws noise levels. loop: dotted path and first parameters of the
    function that makes sample images by Euler steps. compression: pixels a latent pixel, along one side. modulation:
    the option whose table modulates it, timestep_shift (Eq. 29-31) or snr_gamma (Eq. 32-33).
    """

    name: str
    scripts: tuple[str, ...]
    needed: tuple[str, ...]
    inversion: str = ""
    own: tuple[str, ...] = ()
    tensor: str = ""
    sampler: str = "library.flux_train_utils"
    loop: tuple[str, tuple[str, ...]] | None = None
    compression: int = 8
    modulation: str = TIMESTEP_SHIFT

    @property
    def trainers(self) -> dict[str, str | None]:
        """Each script that has a door, and the network trainer if it is a full fine-tune."""
        network_trainer, *fine_tunes = self.scripts
        inversion = [self.inversion] if self.inversion else []
        return {network_trainer: None, **dict.fromkeys(fine_tunes, network_trainer), **dict.fromkeys(inversion)}


_MODEL = "pretrained_model_name_or_path"
WORD = "token_string"
FLUX = Family(  # Chroma too
    "FLUX",
    ("flux_train_network.py", "flux_train.py"),
    (_MODEL, "ae", "clip_l", "t5xxl"),
    own=("ae", "model_type"),
    tensor="double_blocks",
    loop=("library.flux_train_utils.denoise", ("model", "img")),
)
SD3 = Family(
    "SD3",
    ("sd3_train_network.py", "sd3_train.py"),
    (_MODEL,),
    own=("clip_g", "training_shift"),
    tensor="joint_blocks",
    sampler="library.sd3_train_utils",
    loop=("library.sd3_train_utils.do_sample", ("height", "width", "seed", "cond", "neg_cond", "mmdit")),
)
LUMINA = Family(
    "Lumina",
    ("lumina_train_network.py", "lumina_train.py"),
    (_MODEL, "gemma2", "ae"),
    own=("gemma2",),
    sampler="library.lumina_train_util",
    loop=("library.lumina_train_util.denoise", ("scheduler", "model", "img")),
)
ANIMA = Family(
    "Anima",
    ("anima_train_network.py", "anima_train.py"),
    (_MODEL, "qwen3", "vae"),
    own=("qwen3",),
    loop=("library.anima_train_utils.do_sample", ("height", "width", "seed", "dit")),
)
HUNYUAN = Family(
    "HunyuanImage",
    ("hunyuan_image_train_network.py",),
    (_MODEL, "text_encoder", "byt5", "vae"),
    own=("byt5",),
    loop=("hunyuan_image_minimal_inference.generate_body", ("args", "model")),
    compression=32,
)
SDXL = Family(
    "SDXL",
    ("sdxl_train_network.py", "sdxl_train.py"),
    (_MODEL,),
    inversion="sdxl_train_textual_inversion.py",
    own=("no_half_vae",),
    tensor="conditioner.embedders.1",
    sampler="library.train_util",
    modulation=SNR_GAMMA,
)
SD = Family(
    "Stable Diffusion",
    ("train_network.py", "train_db.py", "fine_tune.py"),
    (_MODEL,),
    inversion="train_textual_inversion.py",
    tensor="cond_stage_model",
    sampler="library.train_util",
    modulation=SNR_GAMMA,
)
FAMILIES = (ANIMA, HUNYUAN, LUMINA, SD3, FLUX, SDXL, SD)
"""Those whose own options say more come first: Lumina has an ae as well, and Hunyuan's is a FLUX by its noise."""

SCRIPTS = {
    script: network_trainer
    for family in (FLUX, SDXL, SD, SD3, LUMINA, ANIMA, HUNYUAN)
    for script, network_trainer in family.trainers.items()
}
"""Each script that has a door, and the network trainer of its family if it is a full fine-tune."""


def guess_script(options: Mapping[str, Any]) -> str:
    """The script that a TOML is meant for: by its options, else by its checkpoint. Raises SgaError when none tells."""
    family = next((family for family in FAMILIES if any(options.get(option) for option in family.own)), None)
    family = family or _family_of_checkpoint(Path(str(options.get(_MODEL))))
    if family is None:
        raise SgaError("which trainer is this for? Add --script, such as --script sdxl_train_network.py")
    network_trainer, *fine_tunes = family.scripts
    if options.get(WORD) and family.inversion:
        return family.inversion
    if options.get("network_module"):
        return network_trainer
    if not fine_tunes:
        raise SgaError(f"sd-scripts trains {family.name} by {network_trainer} only: set network_module")
    return fine_tunes[0]


def _family_of_checkpoint(file: Path) -> Family | None:
    """By tensors that only its checkpoints have; None where the file is not there, or tells nothing."""
    names = tensor_shapes(file)
    with_tensor = (family for family in FAMILIES if family.tensor)
    return next((family for family in with_tensor if any(family.tensor in name for name in names)), None)


def needed_options(script: str, args: argparse.Namespace) -> list[str]:
    """The options that a script cannot start without. script: one of SCRIPTS. args: the host's."""
    family = next(family for family in FAMILIES if script in family.trainers)
    without = ("clip_l",) if getattr(args, "model_type", "") == "chroma" else ()  # Chroma has none
    word = [WORD] if script == family.inversion else []
    return [option for option in family.needed if option not in without] + word


def family_of(args: argparse.Namespace) -> Family:
    """By an option that only its scripts have. args: the host's, as its parser made them.

    SD stands for SDXL as well: nothing here depends on which of the two it is.
    """
    if not hasattr(args, "weighting_scheme"):
        return SD
    with_noise_levels = (family for family in FAMILIES if family.modulation == TIMESTEP_SHIFT)
    return next((f for f in with_noise_levels if any(hasattr(args, option) for option in f.own)), FLUX)


def check_modulation(config: SgaConfig, args: argparse.Namespace) -> None:
    """Raises SgaError where the settings ask for a modulation that the family, or its sampling mode, does not have."""
    family = family_of(args)
    if not config.modulates:
        return
    if config.flow_snr_weight and family.modulation == SNR_GAMMA:
        raise SgaError("sga_flow_snr_weight is for flow-matching models; this one has sga_snr_gamma without it")
    _check_other_weights(config, args)
    check_form(config, getattr(args, "timestep_sampling", None), family.name, NORMAL_MODES)
    for name in (family.modulation, *([SNR_GAMMA] if config.flow_snr_weight else [])):
        check_table(config, name, family.name)


def check_path(config: SgaConfig, args: argparse.Namespace) -> None:
    """Raises SgaError for what excludes a path other than linear."""
    if not config.leaves_line:
        return
    name, family = f"sga_path={config.path}", family_of(args)
    prediction = getattr(args, "model_prediction_type", "raw")
    if family.modulation == SNR_GAMMA:
        raise SgaError(f"{name} is for flow-matching models, and this script trains {family.name}: leave it out")
    if prediction != "raw":
        raise SgaError(
            f"{name} needs velocities, not model_prediction_type={prediction}: set model_prediction_type=raw"
        )
    if getattr(args, "ip_noise_gamma", None):
        raise SgaError(f"{name} excludes ip_noise_gamma={args.ip_noise_gamma}, which leaves the path: leave it out")
    if family is SD3 and args.weighting_scheme in ("sigma_sqrt", "cosmap"):
        raise SgaError(
            f"{name} compares velocities, and weighting_scheme={args.weighting_scheme} is made for SD3's form without "
            "noise: use uniform, logit_normal or mode"
        )
    if config.flow_snr_weight:
        raise SgaError(f"{name} excludes sga_flow_snr_weight, whose SNR is that of a straight path: leave out one")


def _check_other_weights(config: SgaConfig, args: argparse.Namespace) -> None:
    """Raises SgaError where a loss would be weighted by its SNR twice, once by us and once by the host."""
    if family_of(args).modulation == SNR_GAMMA:
        for name in _OTHER_WEIGHTS:
            if getattr(args, name, None):
                raise SgaError(
                    f"{name} is a weight of the loss that follows the SNR, and so is Min-SNR by granularity (Eq. 33): "
                    "the host would multiply the two. Leave it out, or set --sga_modulation=false to train with it"
                )
    scheme = getattr(args, "weighting_scheme", None)
    if config.flow_snr_weight and scheme in _FLOW_WEIGHTS:
        raise SgaError(
            f"weighting_scheme = {scheme} weights the loss by its noise level, and so does sga_flow_snr_weight: the "
            "host would multiply the two. Leave out one of them"
        )
