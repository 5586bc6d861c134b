"""Seams: a saved model is whole or absent.

Hosts write models in place, so a kill in between leaves half a file under a good name. Their writers end in these two
functions and in one of each host's own, which write to NAME.part here and move that into place. States are folders: see
tuples/states.py.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sga_kohya.hosts.seam import Seam
from sga_kohya.kit.files import whole_file
from sga_kohya.training.session import Session


def replace_writer(original: Callable, session: Session) -> Callable:
    """For a writer that takes its file as second argument, or by the name `f` or `filename`."""

    @functools.wraps(original)
    def write(*args: Any, **kwargs: Any) -> Any:
        name = next((name for name in ("f", "filename") if name in kwargs), None)
        file = kwargs[name] if name else args[1] if len(args) > 1 else None
        if not isinstance(file, str | os.PathLike):
            return original(*args, **kwargs)
        with whole_file(Path(os.fsdecode(file))) as part:
            if name:
                kwargs[name] = str(part)
            else:
                args = (args[0], str(part), *args[2:])
            return original(*args, **kwargs)

    return write


# Other packages wrap these two in functions of (*args, **kwargs), ultralytics for one: their names are not checked.
WRITERS = (
    Seam("safetensors writer", "safetensors.torch.save_file", (), replace_writer),
    Seam("torch writer", "torch.save", (), replace_writer),
)
