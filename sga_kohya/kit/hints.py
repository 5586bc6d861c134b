"""The word that was probably meant."""

import difflib
from collections.abc import Iterable
from pathlib import Path


def closest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The known word most like this one, "" where none is. cutoff: 0 lets any pass, 1 the same word alone."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)), "")


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """ "did you mean close?", or "known are a, b, c" where nothing is close."""
    known = sorted(known)
    close = closest(word, known, cutoff)
    return f"did you mean {close}?" if close else f"known are {', '.join(known) or 'none'}"


def command_meant(word: str, commands: Iterable[str]) -> str:
    """The command most like a word that stands where a file or folder may stand too; "" where there is such a one."""
    return "" if Path(word).exists() else closest(word, commands, cutoff=0.7)
