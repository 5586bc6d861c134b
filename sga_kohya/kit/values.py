"""Readers of one value, a word of a command line or what TOML has: the value, or an SgaError that says what to write.

A reader is any function of one argument that raises ValueError with the remedy; Fields puts the key and value in front.
"""

import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from sga_kohya.errors import SgaError

T = TypeVar("T")
Reader = Callable[[object], T]


def is_number(value: object) -> TypeGuard[float]:
    """Whether JSON or TOML wrote a number that can be reckoned with: no true or false, no NaN, nothing endless.

    JSON's whole numbers may be larger than a float can be, and math.isfinite raises for those.
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def reads(remedy: str) -> Callable[[Reader[T]], Reader[T]]:
    """Make whatever a reader raises, on whatever it is given, an SgaError that says what to write."""

    def decorate(read: Reader[T]) -> Reader[T]:
        @functools.wraps(read)
        def reader(value: object) -> T:
            try:
                return read(value)
            except SgaError:
                raise
            except (ValueError, TypeError, LookupError, ArithmeticError, OSError):
                raise SgaError(remedy) from None

        return reader

    return decorate


@reads("write true or false")
def boolean(value: object) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    return words[str(value).lower()]


@reads("write text")
def text(value: object) -> str:
    """Text, or a path as text."""
    if not isinstance(value, str | Path):
        raise TypeError
    if "\0" in str(value):
        raise SgaError("leave out the character with the code 0")
    return str(value)


@reads("write a table")
def mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError
    return dict(value)


def whole(low: int = -(2**31)) -> Reader[int]:
    """Whole numbers from `low` that fit into 32 bits."""

    @reads("write a whole number" + (f" from {low}" if low > -(2**31) else ""))
    def read(value: object) -> int:
        number = int(str(value))
        if not low <= number < 2**31:
            raise ValueError
        return number

    return read


def number(low: float = -sys.float_info.max, high: float = sys.float_info.max) -> Reader[float]:
    """Finite numbers from `low` to `high`."""
    least = f" from {low:g}" if low > -sys.float_info.max else ""

    @reads(f"write a number{least}" + (f" to {high:g}" if high < sys.float_info.max else ""))
    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise TypeError
        found = float(value)
        if not math.isfinite(found):
            raise SgaError("write a finite number")
        if not low <= found <= high:
            raise ValueError
        return found

    return read


def one_of(words: Sequence[str]) -> Reader[str]:
    @reads(f"write one of {', '.join(words)}")
    def read(value: object) -> str:
        return words[list(words).index(str(value))]

    return read


def listed(reader: Reader[T]) -> Reader[tuple[T, ...]]:
    """A list of what `reader` reads."""

    @reads("write a list")
    def read(value: object) -> tuple[T, ...]:
        if not isinstance(value, list | tuple):
            raise TypeError
        return tuple(map(reader, value))

    return read


@reads("write names separated by commas")
def names(value: object) -> tuple[str, ...]:
    """A list, or words separated by commas; one or more."""
    found = tuple(str(item).strip() for item in (value if isinstance(value, list | tuple) else str(value).split(",")))
    if not found or not all(found):
        raise ValueError
    return found


@reads("no such file or folder")
def existing(value: object) -> Path:
    path = Path(str(value)).expanduser()
    if not path.exists():
        raise ValueError
    return path


def file(*suffixes: str) -> Reader[Path]:
    """An existing file whose name ends in one of the suffixes, written with their dots."""

    def read(value: object) -> Path:
        path = existing(value)
        if path.suffix.lower() not in suffixes or not path.is_file():
            raise SgaError(f"give a {' or '.join(suffixes)} file")
        return path

    return read
