"""Seams: saved models say how they were made, are whole or absent, and are named by hours where those were asked for.

Every script asks `get_sai_model_spec` for the header of each file it saves, LoRA or checkpoint, --no_metadata or not;
our `ss_sga_*` entries are added to its answer. Anima and HunyuanImage ask for the same as an object and turn that into
a header themselves. Of the host's own entries only the epoch of a run that was stopped by the hours is corrected.
How they are written whole: hosts/writers.py.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

from sga_kohya.hosts.seam import Seam
from sga_kohya.hosts.writers import WRITERS, replace_writer
from sga_kohya.training.session import Session


def _replace(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def get_sai_model_spec(*args: Any, **kwargs: Any) -> dict[str, str]:
        return {**original(*args, **kwargs), **session.metadata()}

    return get_sai_model_spec


def _replace_dataclass(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def get_sai_model_spec_dataclass(*args: Any, **kwargs: Any) -> Any:
        spec = original(*args, **kwargs)
        kind = type(spec)

        def to_metadata_dict(this: Any) -> dict[str, str]:
            return {**kind.to_metadata_dict(this), **session.metadata()}

        # A subclass, because the host writes every attribute of the object into the header.
        spec.__class__ = type(kind.__name__, (kind,), {"to_metadata_dict": to_metadata_dict})
        return spec

    return get_sai_model_spec_dataclass


def _replace_name(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def get_step_ckpt_name(args: argparse.Namespace, ext: str, step_no: int) -> str:
        name = original(args, ext, step_no)
        saving = session.budget.saving
        return name.replace(f"-step{step_no:08d}", f"-{saving[1]:g}h") if saving and saving[0] == step_no else name

    return get_step_ckpt_name


_MEMORY_SAVING = "library.safetensors_utils.mem_eff_save_file"
_PARAMETERS = ("state_dict", "args")
SEAMS = (
    Seam("metadata", "library.train_util.get_sai_model_spec", _PARAMETERS, _replace),
    Seam("metadata object", "library.train_util.get_sai_model_spec_dataclass", _PARAMETERS, _replace_dataclass),
    *WRITERS,
    Seam("memory-saving writer", _MEMORY_SAVING, ("tensors", "filename"), replace_writer),
    Seam("checkpoint name", "library.train_util.get_step_ckpt_name", ("args", "ext", "step_no"), _replace_name),
)
