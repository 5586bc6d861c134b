"""Which kind of model a script trains, told from its parsed arguments, and what of SGA's modulation fits it.

From arguments and not from the script's name, because a patched checkout and a caller from Python have no door.
"""

import argparse
from dataclasses import dataclass

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError

# Weights of the host's that follow the SNR. It multiplies all that are set, and Eq. 33 takes their place.
_OTHER_WEIGHTS = ("debiased_estimation_loss", "v_pred_like_loss", "scale_v_pred_loss_like_noise_pred")
_FLOW_WEIGHTS = ("sigma_sqrt", "cosmap")  # of weighting_scheme; its other values draw noise levels

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
    if not (config.enabled and config.modulation):
        return
    if config.flow_snr_weight and family is UNET:
        raise SgaError("sga_flow_snr_weight is for flow-matching models; this one has sga_snr_gamma without it")
    _check_other_weights(config, args)
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


def _check_other_weights(config: SgaConfig, args: argparse.Namespace) -> None:
    """Raises SgaError where a loss would be weighted by its SNR twice, once by us and once by the host."""
    if family_of(args) is UNET:
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
