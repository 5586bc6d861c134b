"""What the shift of noise levels needs of a trainer: a sampling mode with a z, and a table for its granularities."""

from collections.abc import Sequence

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.words import UPSTREAM


def check_form(config: SgaConfig, mode: str | None, model: str, normal: Sequence[str]) -> None:
    """Raises SgaError where upstream's form of the shift has no z to move.

    mode: the trainer's timestep_sampling, None where its script has none. normal: modes that are sigmoid(s * z) of a
    normal z, shifted or not.
    """
    if config.timestep_shift_form == UPSTREAM and mode not in normal:
        reason = f"timestep_sampling={mode} has no such z" if mode else f"{model} has no sigmoid_scale"
        raise SgaError(
            f"sga_timestep_shift_form=upstream is sigmoid(s*(z + Delta)), and {reason}: use logit, which fits "
            f"every mode, or one of {', '.join(normal)} where the script has them"
        )


def check_table(config: SgaConfig, option: str, model: str) -> None:
    """Raises SgaError where the table that modulates the model is for other granularities."""
    table = getattr(config, option)
    if table and not set(table) & set(config.granularities):
        raise SgaError(
            f"{model} is modulated by sga_{option}, which names none of {','.join(config.granularities)}: "
            f"write it for them, such as --sga_{option} {','.join(f'{label}:5' for label in config.granularities)}, "
            "or set --sga_modulation=false"
        )
