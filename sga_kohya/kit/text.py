"""Text that a user wrote, read without a guess; and names of a user's files, shown so that they can forge nothing."""

import codecs
import math
import re
import unicodedata
from pathlib import Path

from sga_kohya.errors import SgaError

_MARKS = (  # that of UTF-32 first, because it begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks, which editors of Windows write, and the codecs that read and drop them."""
_JOINERS = "\u200c\u200d"
"""Format characters that Persian words and emoji are spelled with."""

UNDEFINED = "–"
"""Stands in every table for a number that is not defined."""


class UnreadableText(SgaError):
    """A text file whose encoding cannot be known. reason: without the file's name and the remedy."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}; save it as UTF-8 in your editor")
        self.reason = reason


def decode_text(data: bytes) -> str:
    """Text of UTF-8, or of UTF-16 or UTF-32 behind a byte order mark, which is dropped.

    Raises ValueError with the reason where anything would have to be guessed, or was lost before: no such mark and no
    UTF-8, a NUL, the character U+FFFD by which a program has replaced what it could not read.
    """
    codec = next((codec for mark, codec in _MARKS if data.startswith(mark)), "utf-8")
    if codec.startswith("utf-8") and b"\0" in data:
        raise ValueError("holds NULs, as UTF-16 without a byte order mark does")
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as error:
        name = codec.removesuffix("-sig").upper()
        raise ValueError(f"not {name}: byte 0x{data[error.start]:02x} at {error.start}") from None
    if "\0" in text:
        raise ValueError("holds NULs")
    if "\ufffd" in text:
        raise ValueError(f"holds U+FFFD at {text.index(chr(0xFFFD))}, where another program has lost a character")
    return text


def read_text(path: Path, what: str = "") -> str:
    """The text of a file that a user wrote. what: names it in errors; its path if not given.

    Raises UnreadableText (an SgaError) where the encoding cannot be known, OSError where the file cannot be read.
    """
    try:
        return decode_text(path.read_bytes())
    except ValueError as error:
        raise UnreadableText(what or str(path), str(error)) from None


def lines_of(text: str) -> list[str]:
    """Its lines that are not blank, stripped. As a text file is split: str.splitlines also tears at U+2028 and others.

    These are the lines that sd-scripts chooses from with enable_wildcard; without, it takes the first of the file.
    """
    return [line.strip() for line in re.split(r"\r\n|\r|\n", text) if line.strip()]


def numeral(number: float, spec: str) -> str:
    """The number as `spec` writes it, or a dash where it is not defined: NaN, or without bound."""
    return format(number, spec) if math.isfinite(number) else UNDEFINED


def duration(seconds: float) -> str:
    """Hours and minutes, for people; seconds below one minute."""
    if round(seconds) < 60:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def counted(number: int, one: str, many: str = "") -> str:
    """1 photo, 2 photos; 1 photo is, 2 photos are. many: where it is not one with an s."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def safe(name: str) -> str:
    """A file's name, or a text that holds one, for a terminal or a page: one line, in the order in which it is read.

    Line breaks, escapes of terminals, marks that turn the direction of writing and bytes that are not UTF-8 stand as
    backslash escapes; letters of every script stay.
    """
    return "".join(_escaped(character) if _is_unsafe(character) else character for character in name)


def _is_unsafe(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in _JOINERS


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
