"""Seam: the validation split never separates siblings.

The host splits each folder by image, so a photo's macro slice could train while its micro slice validates. Here whole
groups change sides. What is a group must be known from the file alone: its manifest, else its stem.
"""

import functools
import random
from collections.abc import Callable, Sequence
from typing import Any

from sga_kohya.granularity import Identifier
from sga_kohya.hosts.seam import Seam
from sga_kohya.training.session import Session


def _replace(original: Callable, session: Session) -> Callable:
    identifier = Identifier(session.config.granularities, session.config.manifest)
    # Folder after folder is split, first for training, then for validation; a group keeps the side it was given first.
    validates: dict[str, bool] = {}

    @functools.wraps(original)
    def split_train_val(
        paths: Sequence[str],
        sizes: Sequence[Any],
        is_training_dataset: bool,
        validation_split: float,
        validation_seed: int | None,
    ) -> tuple[list[str], list[Any]]:
        families = [identifier.family(path) for path in paths]
        new = [family for family in dict.fromkeys(families) if family not in validates]
        new.sort(key=lambda family: random.Random(f"{validation_seed or 0}/{family}").random())
        count = round(len(new) * validation_split)
        validates.update({family: index < count for index, family in enumerate(new)})
        chosen = [i for i, family in enumerate(families) if validates[family] != is_training_dataset]
        return [paths[i] for i in chosen], [sizes[i] for i in chosen]

    return split_train_val


SEAM = Seam(
    "validation split",
    "library.train_util.split_train_val",
    ("paths", "sizes", "is_training_dataset", "validation_split", "validation_seed"),
    _replace,
)
