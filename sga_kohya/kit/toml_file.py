"""One reader of TOML, with one error. Windows' editors put a mark (BOM) before the first key, which is passed over."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import toml

from sga_kohya.errors import SgaError


def read_toml(path: Path, what: str = "") -> dict[str, Any]:
    """The tables of a file. what: names it in errors, such as "--config_file x.toml"; the path alone if not given.

    Raises SgaError when it is missing, no file, not UTF-8, or not TOML.
    """
    what = what or str(path)
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise SgaError(f"{what}: {path.absolute()} cannot be read ({reason}); correct the path") from None
    try:
        return parse_toml(content.decode("utf-8-sig"), what)
    except UnicodeDecodeError as error:
        raise SgaError(f"{what}: not UTF-8 ({error}); save it as UTF-8 in your editor") from None


def parse_toml(text: str, what: str) -> dict[str, Any]:
    """The tables of a text. Raises SgaError naming `what` when it is not TOML."""
    try:
        return toml.loads(text)
    # toml 0.10.2 raises IndexError for an unclosed inline table, TypeError and KeyError for other half-written values.
    except Exception as error:
        raise SgaError(f"{what}: not valid TOML: {' '.join(str(error).split()) or type(error).__name__}") from None


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
