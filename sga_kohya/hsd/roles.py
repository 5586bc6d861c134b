"""What a level is for, by its name, else by its place: the defaults of levels and of detectors hang on it."""

from collections.abc import Sequence

ROLES = ("macro", "meso", "micro")


def role_of(level: str, levels: Sequence[str]) -> str:
    """One of ROLES. levels: names, coarse to fine."""
    if level in ROLES:
        return level
    rank = levels.index(level)
    return "macro" if rank == 0 else "micro" if rank == len(levels) - 1 else "meso"
