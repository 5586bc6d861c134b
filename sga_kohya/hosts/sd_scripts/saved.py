"""Seams: saved models say how they were made, are whole or absent, and are named by hours where those were asked for.

Every script asks `get_sai_model_spec` for the header of each file it saves, LoRA or checkpoint, --no_metadata or not;
our `ss_sga_*` entries are added to its answer. Anima and HunyuanImage ask for the same as an object and turn that into
a header themselves. Of the host's own entries only the epoch of a run that was stopped by the hours is corrected.
The host writes models in place, so a kill in between leaves half a file under a good name. All its writers end in one
of three functions, which write to NAME.part here and move that into place. States are folders: see TupleAccelerator.
"""

import argparse
import functools
import os
from collections.abc import Callable
from typing import Any

from sga_kohya.hosts.seam import Seam
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


def _replace_writer(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def write(*args: Any, **kwargs: Any) -> Any:
        name = next((name for name in ("f", "filename") if name in kwargs), None)
        file = kwargs[name] if name else args[1] if len(args) > 1 else None
        if not isinstance(file, str | os.PathLike):
            return original(*args, **kwargs)
        part = f"{os.fspath(file)}.part"
        if name:
            kwargs[name] = part
        else:
            args = (args[0], part, *args[2:])
        try:
            result = original(*args, **kwargs)
            os.replace(part, file)
        except BaseException:
            if os.path.exists(part):
                os.remove(part)
            raise
        return result

    return write


def _replace_name(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def get_step_ckpt_name(args: argparse.Namespace, ext: str, step_no: int) -> str:
        name = original(args, ext, step_no)
        saving = session.budget.saving
        return name.replace(f"-step{step_no:08d}", f"-{saving[1]:g}h") if saving and saving[0] == step_no else name

    return get_step_ckpt_name


_PARAMETERS = ("state_dict", "args")
SEAMS = (
    Seam("metadata", "library.train_util.get_sai_model_spec", _PARAMETERS, _replace),
    Seam("metadata object", "library.train_util.get_sai_model_spec_dataclass", _PARAMETERS, _replace_dataclass),
    # Other packages wrap these two in functions of (*args, **kwargs), ultralytics for one: their names are not checked.
    Seam("safetensors writer", "safetensors.torch.save_file", (), _replace_writer),
    Seam("torch writer", "torch.save", (), _replace_writer),
    Seam(
        "memory-saving writer", "library.safetensors_utils.mem_eff_save_file", ("tensors", "filename"), _replace_writer
    ),
    Seam("checkpoint name", "library.train_util.get_step_ckpt_name", ("args", "ext", "step_no"), _replace_name),
)
