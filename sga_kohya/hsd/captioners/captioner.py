"""What a captioner is, and those there are."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from sga_kohya.errors import SgaError
from sga_kohya.hsd.registry import Registry, called

INHERIT = "inherit"


@dataclass(frozen=True, eq=False)
class Slice:
    """What there is to be put into words.

    file: below OUT, with '/'. level: its name. source: the photo below PHOTOS. caption: the photo's own, of one line or
    several, "" where nobody has written one. label: what the detector took the slice for, "" for a whole photo and for
    a detector that knows no names. read: gives the pixels.
    """

    file: str
    level: str
    source: str
    caption: str
    label: str
    read: Callable[[], np.ndarray]

    @cached_property
    def pixels(self) -> np.ndarray:
        """(H, W, 3) RGB uint8 of the size that is trained on."""
        return self.read()


class Captioner(Protocol):
    """Called by several threads at once, with the slices of one photo.

    One whose words cost something also has `cost(slices: int) -> str`, a sentence that is said before the first.
    """

    name: str

    def describe(self, slices: Sequence[Slice]) -> list[str | None]:
        """The words for each: "" where there are none to say, None where it failed and should be asked again.

        What of the photo's own caption stands in front of them, and the level's `caption_prefix`, are put there later.
        What is said of a slice must not depend on the others.
        """
        ...


class FunctionCaptioner:
    """One's own function of a `Slice` to its words, one call at a time."""

    def __init__(self, name: str, function: Callable[[Slice], object]) -> None:
        self.name, self._function, self._one_at_a_time = name, function, threading.Lock()

    def describe(self, slices: Sequence[Slice]) -> list[str | None]:
        with self._one_at_a_time:
            return [self._words(piece) for piece in slices]

    def _words(self, piece: Slice) -> str | None:
        words = called(f"captioner {self.name} fails at {piece.file}", self._function, piece)
        if not (words is None or isinstance(words, str)):
            raise SgaError(f"captioner {self.name} gives {words!r:.80} for {piece.file}: return text, or None to retry")
        return words


CAPTIONERS: Registry[Captioner] = Registry(
    "captioner", "sga_kohya.hsd.captioners", (INHERIT, "wd", "vlm"), FunctionCaptioner
)
register_captioner = CAPTIONERS.register
