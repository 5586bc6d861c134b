"""The host's options as it will see them: command line over TOML, read without starting the host."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sga_kohya.config import is_ours
from sga_kohya.errors import SgaError
from sga_kohya.kit.toml_file import merge_sections, read_toml

HOST = "sd-scripts"
_OF_A_GUI = (
    "a JSON of the kohya_ss GUI is for that alone. When it trains, and at `Print training command`, it leaves a TOML "
    "of the same settings in its output folder, config_lora-DATE.toml or the like"
)


def read_options(argv: Sequence[str], host: str = HOST) -> dict[str, Any]:
    """Every `--name value` of a command line over every key of the TOML it names, as the host merges them.

    A bare switch is True, several values are a list, everything else from the command line is a string. A key of ours
    that stands where the host would not read it is there under its dotted path, such as "sga.tuples".
    Raises SgaError when the TOML named by --config_file is missing or cannot be parsed.
    """
    given = words_of(argv)
    config_file = given.get("config_file")
    # With --output_config the host writes that file instead of reading it.
    reads = config_file and "output_config" not in given
    return {**(_read_config(str(config_file), host) if reads else {}), **given}


def words_of(argv: Sequence[str]) -> dict[str, Any]:
    """Every `--name value` of a command line alone; see read_options."""
    words: dict[str, Any] = {}
    name = ""
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if name.startswith("conf") and "config_file".startswith(name):
                name = "config_file"  # argparse takes a beginning for the whole
            words[name] = [value] if equals else []
        elif name:
            words[name].append(word)
    return {name: (True if not v else v[0] if len(v) == 1 else v) for name, v in words.items()}


def _read_config(name: str, host: str) -> dict[str, Any]:
    path = Path(name if name.endswith(".toml") else name + ".toml")
    if not os.path.exists(path) and os.path.isfile(name):  # these take what can be no name for one of nothing
        remedy = _OF_A_GUI if name.lower().endswith(".json") else "give the file that name"
        raise SgaError(f"--config_file {name}: {host} reads TOML alone, and looks for {path.name}: {remedy}")
    tables = read_toml(path, f"--config_file {name}", host)
    return {**merge_sections(tables), **dict(_out_of_reach(tables))}


def _out_of_reach(tables: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys meant for us that the host merges into nothing: `tuples` in [sga], and what lies deeper than a section."""
    sections = {name: value for name, value in tables.items() if not name.startswith("sga_")}
    waiting = []
    for name, section in sections.items():
        for key, value in _entries(section):
            waiting.append((f"{name}.{key}", value))
            if is_ours(name) and isinstance(section, Mapping) and not is_ours(key):
                yield waiting[-1]
    while waiting:
        path, value = waiting.pop()
        if not is_ours(path.rpartition(".")[2]):
            deeper = [(f"{path}.{key}", inner) for key, inner in _entries(value)]
            yield from (entry for entry in deeper if is_ours(entry[0].rpartition(".")[2]))
            waiting += deeper


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """What a table or list holds, by name or place."""
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, list):
        yield from ((str(place), item) for place, item in enumerate(value))


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether the run only prints or writes settings and needs no data."""
    return any(word.partition("=")[0] in ("-h", "--help", "--output_config", "--show_timesteps") for word in argv)
