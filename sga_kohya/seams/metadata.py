"""Seam: saved models say how they were made.

Every script asks `get_sai_model_spec` for the header of each file it saves, LoRA or checkpoint, --no_metadata or not;
our `ss_sga_*` entries are added to its answer. The host's own entries stay as they are.
"""

import functools
from collections.abc import Callable
from typing import Any

from sga_kohya.seams.host import Seam
from sga_kohya.seams.session import Session


def _replace(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def get_sai_model_spec(*args: Any, **kwargs: Any) -> dict[str, str]:
        return {**original(*args, **kwargs), **session.metadata()}

    return get_sai_model_spec


SEAM = Seam("metadata", "library.train_util.get_sai_model_spec", ("state_dict", "args"), _replace)
