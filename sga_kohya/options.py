"""The host's options as it will see them: command line over TOML, read without starting the host."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import toml

from sga_kohya.errors import SgaError


def read_options(argv: Sequence[str]) -> dict[str, Any]:
    """Every `--name value` of a command line over every key of the TOML it names, as the host merges them.

    A bare switch is True, several values are a list, everything else from the command line is a string.
    Raises SgaError when the TOML named by --config_file is missing or cannot be parsed.
    """
    words: dict[str, Any] = {}
    name = ""
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            words[name] = [value] if equals else []
        elif name:
            words[name].append(word)
    given = {name: (True if not v else v[0] if len(v) == 1 else v) for name, v in words.items()}
    config_file = given.get("config_file")
    # With --output_config the host writes that file instead of reading it.
    reads = config_file and "output_config" not in given
    return {**(_read_toml(str(config_file)) if reads else {}), **given}


def _read_toml(name: str) -> dict[str, Any]:
    path = Path(name if name.endswith(".toml") else name + ".toml")
    if not path.is_file():
        raise SgaError(f"--config_file {name}: {path.resolve()} does not exist; give the path of your kohya TOML")
    try:
        content = toml.loads(path.read_text(encoding="utf-8"))
    except (toml.TomlDecodeError, UnicodeDecodeError) as error:
        raise SgaError(f"--config_file {name}: not valid TOML: {error}") from None
    flat: dict[str, Any] = {}
    for key, value in content.items():
        # The host merges all sections into one; a table that is the value of one of our options is no section.
        flat.update(value if isinstance(value, dict) and not key.startswith("sga_") else {key: value})
    return flat


def positive(text: str) -> int:
    """A whole number from 1, as an argparse type."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError("write a whole number from 1")
    return int(text)
