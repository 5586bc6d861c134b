"""What a host's own parser says of the keys of a TOML, which argparse itself lets pass unseen."""

import argparse
import contextlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.kit.hints import closest
from sga_kohya.options import HOST, read_options

_READ_AS_WELL: dict[str, Callable[[Any], bool]] = {
    "text_encoder_lr": lambda value: _is_number(value),
    "max_token_length": lambda value: _is_number(value) and value >= 75 and value == int(value),
    "dynamo_backend": lambda value: value == "no",
}
"""What sd-scripts reads of a TOML although its parser refuses it on the command line: one number for what was no list
before v0.9, any length (75 is its own default), and accelerate's name for no compilation. Thousands of files have them;
the kohya_ss GUI writes the last two."""


def settings_of_file(name: str | None, host: str = HOST) -> dict[str, Any]:
    """The keys of a --config_file as the host merges them; none where none is named."""
    settings = read_options(["--config_file", str(name)], host) if name else {}
    return {key: value for key, value in settings.items() if key != "config_file"}


def say_wrong_settings(parser: argparse.ArgumentParser, name: str, host: str = HOST) -> None:
    """Print what argparse lets pass in a --config_file; the host goes on, because other plugins have keys as well."""
    for _, text in wrong_settings(parser, settings_of_file(name, host), parser.prog):
        print(f"sga_kohya: warning: --config_file {name}: {text}", flush=True)


def wrong_settings(
    parser: argparse.ArgumentParser, settings: Mapping[str, Any], script: str
) -> Iterator[tuple[str, str]]:
    """(level, text) of what argparse lets pass in a TOML: keys that nobody reads, values of a wrong type or choice.

    An error is what the script cannot work with. script: whose parser it is, as the texts name it; a key that it does
    not know may be another script's.
    """
    actions = {action.dest: action for action in parser._actions}
    for key, value in settings.items():
        if key not in actions:
            close = closest(key, actions, cutoff=0.8)
            hint = f"; did you mean {close}?" if close else ""
            yield "warning", f"{key}: {script} knows no such key and ignores it{hint}"
        elif not key.startswith("sga") and not _READ_AS_WELL.get(key, _never)(value):  # ours were read by SgaConfig
            switch = actions[key].nargs == 0
            reason = _wrong_switch(value) if switch else _wrong_value(actions[key], value)
            if reason:
                yield "warning" if switch else "error", f"{key} = {json.dumps(value, default=str)}: {reason}"


def parse(parser: argparse.ArgumentParser, settings: Mapping[str, Any], words: Sequence[str]) -> argparse.Namespace:
    """What the script will see. settings: of the TOML. Raises SgaError with the parser's own words when it refuses."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parser.parse_args(list(words), namespace=argparse.Namespace(**settings))
    except SystemExit:
        raise SgaError(said.getvalue().strip().splitlines()[-1]) from None


def _never(value: Any) -> bool:
    return False


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _wrong_switch(value: Any) -> str | None:
    """A script asks of a switch only whether its value is true to Python, as 1 is."""
    if isinstance(value, bool) or value in (0, 1):
        return None
    return f"this counts as {'true' if value else 'false'}, whatever the words say; write true or false"


def _wrong_value(action: argparse.Action, value: Any) -> str | None:
    listed = action.nargs in ("*", "+") or isinstance(action.nargs, int)
    if listed != isinstance(value, list):
        return "write a list in [ ]" if listed else "write a single value"
    kind: Callable[[str], Any] = action.type if callable(action.type) else str
    for item in value if listed else [value]:
        if action.choices is not None and item not in action.choices:
            return f"write one of {', '.join(map(str, action.choices))}"
        if kind in (int, float) and (isinstance(item, bool) or not isinstance(item, (int, kind))):
            return "write a whole number" if kind is int else "write a number"
        if kind is str and not isinstance(item, str):
            return f'write it in quotes: "{item}"'
        try:
            kind(str(item))
        except (TypeError, ValueError, argparse.ArgumentTypeError) as error:
            return str(error)
    return None
