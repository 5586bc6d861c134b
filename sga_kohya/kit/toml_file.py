"""One reader of TOML, with one error. Windows' editors put a mark (BOM) before the first key, which is passed over."""

import codecs
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import toml

from sga_kohya.errors import SgaError

# What an escape makes of a path in double quotes: "C:\new\table" holds a line break and a tab.
_TORN_PATH = re.compile(r"(?:[A-Za-z]:(?=[\x08-\x0d/\\])|\\)[^\x00-\x1f]*[\x08-\x0d]")
_ESCAPES = re.compile(r'"[^"\n]*\\')
_HOW_TO_WRITE_PATHS = r"in double quotes \ begins an escape: write paths in single quotes, 'C:\folder', or as C:/folder"


def read_toml(path: Path, what: str = "", host: str = "") -> dict[str, Any]:
    """The tables of a file.

    what: names it in errors, such as "--config_file x.toml"; the path alone if not given. host: who reads the file once
    more, with a reader to which a BOM is part of the first key.

    Raises SgaError when it is missing, no file, not UTF-8, or not TOML; with a host also when there is a BOM.
    """
    where, what = f"{what}: {path.absolute()}" if what else str(path), what or str(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise SgaError(f"{where} does not exist; correct the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise SgaError(f"{where} cannot be read ({reason}); correct the path") from None
    if host and content.startswith(codecs.BOM_UTF8):
        raise SgaError(
            f"{what}: it begins with a byte order mark (BOM), with which {host} loses the first key. Save it as UTF-8 "
            'without BOM: in Notepad by "Save as", encoding "UTF-8"'
        )
    try:
        return parse_toml(content.decode("utf-8-sig"), what)
    except UnicodeDecodeError as error:
        raise SgaError(f"{what}: not UTF-8 ({error}); save it as UTF-8 in your editor") from None


def parse_toml(text: str, what: str) -> dict[str, Any]:
    """The tables of a text. Raises SgaError naming `what` when it is not TOML, or when escapes have torn a path."""
    try:
        tables = toml.loads(text)
    # toml 0.10.2 raises IndexError for an unclosed inline table, TypeError and KeyError for other half-written values.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        hint = f"; {_HOW_TO_WRITE_PATHS}" if _ESCAPES.search(text) else ""
        raise SgaError(f"{what}: not valid TOML: {reason}{hint}") from None
    for key, value in _texts(tables):
        if _TORN_PATH.match(value):
            raise SgaError(f"{what}: {key} = {value!r}: {_HOW_TO_WRITE_PATHS}")
    return tables


def _texts(tables: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every text in the tables with the key that holds it, at any depth."""
    waiting: list[tuple[str, Any]] = list(tables.items())
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, Mapping):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += ((key, item) for item in value)


def listed_tables(table: Mapping[str, Any], key: str, what: str) -> list[dict[str, Any]]:
    """The tables of `[[key]]`, none where there are none. Raises SgaError naming `what` for anything else there."""
    tables = table.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(entry, Mapping) for entry in tables):
        raise SgaError(f"{what}: {key} is no list of tables: write [[{key}]] with two brackets, as often as needed")
    return tables


def merge_sections(tables: Mapping[str, Any], kept: str = "sga_") -> dict[str, Any]:
    """Keys of all sections in one table, as sd-scripts merges them. kept: keys whose tables are values, no sections."""
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        flat.update(value if isinstance(value, Mapping) and not key.startswith(kept) else {key: value})
    return flat


def toml_key(text: str) -> str:
    """A key as TOML writes it, in quotes where it needs them."""
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else toml_string(text)


def toml_string(text: str) -> str:
    """A basic string with what it must escape."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\u{ord(match.group()):04x}", escaped) + '"'
