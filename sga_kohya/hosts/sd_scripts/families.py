"""Which kind of model a script trains, told from its parsed arguments, and what of SGA fits it.

From arguments and not from the script's name, because a patched checkout and a caller from Python have no door.
"""

import argparse
from dataclasses import dataclass

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError

NORMAL_MODES = ("sigmoid", "shift", "flux_shift")
"""Values of timestep_sampling that are sigmoid(s * z) of a normal z, shifted or not; s is the host's sigmoid_scale."""


@dataclass(frozen=True)
class Family:
    """sampler: module of the function that draws noise levels. compression: pixels a latent pixel, along one side.

    modulation: the option whose table modulates it, timestep_shift (Eq. 29-31) or snr_gamma (Eq. 32-33).
    """

    name: str
    sampler: str
    compression: int = 8
    modulation: str = "timestep_shift"


UNET = Family("Stable Diffusion", "library.train_util", modulation="snr_gamma")
SD3 = Family("SD3", "library.sd3_train_utils")
LUMINA = Family("Lumina", "library.lumina_train_util")
HUNYUAN = Family("HunyuanImage", "library.flux_train_utils", compression=32)
FLUX = Family("FLUX", "library.flux_train_utils")  # Chroma and Anima too


def family_of(args: argparse.Namespace) -> Family:
    """By an option that only its scripts have. args: the host's."""
    if not hasattr(args, "weighting_scheme"):
        return UNET
    owners = {"training_shift": SD3, "gemma2": LUMINA, "byt5": HUNYUAN}
    return next((family for option, family in owners.items() if hasattr(args, option)), FLUX)


def check_modulation(config: SgaConfig, args: argparse.Namespace) -> None:
    """Raises SgaError where the settings ask for a modulation that the family, or its sampling mode, does not have."""
    family = family_of(args)
    if not config.modulation:
        return
    if config.flow_snr_weight and family is UNET:
        raise SgaError("sga_flow_snr_weight is for flow-matching models; this one has sga_snr_gamma without it")
    if config.timestep_shift_form == "upstream":
        mode = getattr(args, "timestep_sampling", None)
        if mode not in NORMAL_MODES:
            reason = f"timestep_sampling={mode} has no such z" if mode else f"{family.name} has no sigmoid_scale"
            raise SgaError(
                f"sga_timestep_shift_form=upstream is sigmoid(s*(z + Delta)), and {reason}: use logit, which fits "
                f"every mode, or one of {', '.join(NORMAL_MODES)} where the script has them"
            )
    used = [family.modulation, *(["snr_gamma"] if config.flow_snr_weight else [])]
    for name in used:
        table = getattr(config, name)
        if table and not set(table) & set(config.granularities):
            raise SgaError(
                f"{family.name} is modulated by sga_{name}, which names none of {','.join(config.granularities)}: "
                f"write it for them, such as --sga_{name} {','.join(f'{label}:5' for label in config.granularities)}, "
                "or set --sga_modulation=false"
            )


def check_path(config: SgaConfig, args: argparse.Namespace) -> None:
    """Raises SgaError for what excludes a path other than linear."""
    if config.path == "linear":
        return
    name, family = f"sga_path={config.path}", family_of(args)
    prediction = getattr(args, "model_prediction_type", "raw")
    if family is UNET:
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
