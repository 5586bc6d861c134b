"""What a captioner is, and the registry by which one's own plugs in."""

import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np

from sga_kohya.errors import SgaError
from sga_kohya.hsd.detectors.options import Options

INHERIT = "inherit"
BUILT_IN = (INHERIT, "wd", "vlm")
"""A module of sga_kohya.hsd.captioners each, imported only when it is used."""


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


CaptionerFactory = Callable[[Options, Path], Captioner]
"""Called once per run with what the user wants of it and PHOTOS, before any photo is read. Reads its options and calls
their `finish`, so that a misspelt one is not passed over in silence. Raises SgaError."""


class FunctionCaptioner:
    """One's own function of a `Slice` to its words, one call at a time."""

    def __init__(self, name: str, function: Callable[[Slice], object]) -> None:
        self.name, self._function, self._one_at_a_time = name, function, threading.Lock()

    def describe(self, slices: Sequence[Slice]) -> list[str | None]:
        with self._one_at_a_time:
            return [self._words(piece) for piece in slices]

    def _words(self, piece: Slice) -> str | None:
        try:
            words = self._function(piece)
        except Exception as error:  # of a stranger's code, anything
            raise SgaError(f"captioner {self.name} fails at {piece.file}: {type(error).__name__}: {error}") from error
        if not (words is None or isinstance(words, str)):
            raise SgaError(f"captioner {self.name} gives {words!r:.80} for {piece.file}: return text, or None to retry")
        return words


def _built_in(name: str) -> CaptionerFactory:
    def create(options: Options, photos: Path) -> Captioner:
        captioner: Captioner = import_module(f"sga_kohya.hsd.captioners.{name}").create(options, photos)
        return captioner

    return create


CAPTIONERS: dict[str, CaptionerFactory] = {name: _built_in(name) for name in BUILT_IN}


def register_captioner(name: str, factory: CaptionerFactory) -> None:
    """Makes `captioner=name` valid. Raises ValueError when name is taken."""
    if name in CAPTIONERS:
        raise ValueError(f"captioner {name!r} is already registered: choose another name")
    CAPTIONERS[name] = factory


def is_captioner(name: str) -> bool:
    """Whether it is registered, or has the form of a function's name, package.module:function."""
    parts = name.replace(":", ".").split(".")
    return name in CAPTIONERS or (name.count(":") == 1 and all(map(str.isidentifier, parts)))


def find_captioner(name: str) -> CaptionerFactory:
    """By a name for which `is_captioner` holds. Raises SgaError for a function that is not there."""
    if name in CAPTIONERS:
        return CAPTIONERS[name]
    function = _function(name)

    def create(options: Options, photos: Path) -> Captioner:
        options.finish()
        return FunctionCaptioner(name, function)

    return create


def source_of(name: str) -> Path | None:
    """The file that a function of one's own stands in, None for what is registered."""
    if name in CAPTIONERS:
        return None
    file = getattr(import_module(name.partition(":")[0]), "__file__", None)
    return Path(file) if file else None


def _function(name: str) -> Callable[[Slice], object]:
    module, _, path = name.partition(":")
    if os.getcwd() not in sys.path:  # `python -m` puts it there, the command `sga-kohya` does not
        sys.path.append(os.getcwd())
    try:
        function = reduce(getattr, path.split("."), import_module(module))
    except Exception as error:  # whatever a stranger's module raises as it is imported
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise SgaError(
            f"captioner {name}: {why}; name a function as package.module:function, in a file of this folder or an "
            "installed package"
        ) from error
    if not callable(function):
        raise SgaError(f"captioner {name}: it is no function but {function!r:.80}")
    found: Callable[[Slice], object] = function
    return found
