"""Seams: saved models say how they were made, are whole or absent, and are named by hours where those were asked for.

And one for a resumed run with a tracker: the host divides by the number of losses it has recorded, of which there are
none while epochs that are over pass by.
"""

import functools
from collections.abc import Callable
from typing import Any

from sga_kohya.hosts.seam import Seam
from sga_kohya.hosts.writers import WRITERS, replace_writer
from sga_kohya.training.session import Session


def _replace_metadata(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def build_metadata(*args: Any, **kwargs: Any) -> dict[str, str]:
        return {**original(*args, **kwargs), **session.metadata()}

    return build_metadata


def _replace_name(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def get_step_ckpt_name(model_name: str, step_no: int) -> str:
        saving = session.budget.saving
        if saving and saving[0] == step_no:
            return f"{model_name}-{saving[1]:g}h.safetensors"
        return original(model_name, step_no)

    return get_step_ckpt_name


def _replace_recorder(original: type, session: Session) -> type:
    class LossRecorder(original):
        @property
        def moving_average(self) -> float:
            return super().moving_average if self.loss_list else 0.0

    return LossRecorder


_METADATA = "musubi_tuner.utils.sai_model_spec.build_metadata"
_MEMORY_SAVING = "musubi_tuner.utils.safetensors_utils.mem_eff_save_file"
_NAME = "musubi_tuner.utils.train_utils.get_step_ckpt_name"
SEAMS = (
    Seam("metadata", _METADATA, ("state_dict", "architecture"), _replace_metadata),
    *WRITERS,
    Seam("memory-saving writer", _MEMORY_SAVING, ("tensors", "filename"), replace_writer),
    Seam("checkpoint name", _NAME, ("model_name", "step_no"), _replace_name),
    Seam("loss average", "musubi_tuner.utils.train_utils.LossRecorder", (), _replace_recorder),
)
