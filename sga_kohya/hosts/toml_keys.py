"""What a host's own parser says of the keys of a TOML, which argparse itself lets pass unseen."""

import argparse
import contextlib
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.kit.hints import closest
from sga_kohya.options import HOST, read_options

_NEVER_TRUE_OR_FALSE = ("gradient_accumulation_steps", "max_timestep", "min_timestep", "network_dim")
"""Numbers that end in int(str(…)), torch.randint or a tensor's size, none of which takes a boolean for one."""
_HALVES_CYCLES = ("cosine_with_min_lr", "warmup_stable_decay")
_READ_AS_WELL: dict[str, Callable[[Any, Mapping[str, Any]], bool]] = {
    "text_encoder_lr": lambda value, _: _is_number(value),
    "max_token_length": lambda value, _: _is_number(value) and value >= 75 and value == int(value),
    "dynamo_backend": lambda value, _: value == "no",
    "base_weights_multiplier": lambda value, settings: not settings.get("base_weights"),
    "timestep_boundary": lambda value, _: _is_number(value),
    "guidance_scale": lambda value, _: _is_quoted_number(value),
    "max_grad_norm": lambda value, _: _is_quoted_number(value) and float(value) != 0,
    "lr_scheduler_num_cycles": lambda value, settings: (
        _is_number(value) or _is_quoted_number(value) and settings.get("lr_scheduler") not in _HALVES_CYCLES
    ),
}
"""What a host reads of a TOML, or does not look at, although its parser refuses it on the command line.

(value, all settings) -> whether this is such a value. One number for what was no list before; any length (75 is the
default); accelerate's name for no compilation; a boundary from 0 to 1 instead of 1000. Published files are full of
them, and GUIs write them. Of numbers in quotes the last three alone end in a float() and train, in sd-scripts v0.10 and
later and in musubi-tuner; a norm of "0" is not 0, and clips every gradient to nothing.
"""


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
    unknown = []
    for key, value in settings.items():
        deep = [inner for inner in _keys_within(value) if inner in actions]
        if key not in actions and deep:
            yield "error", _too_deep(key, deep[0], script)
        elif key not in actions:
            close = closest(key, actions, cutoff=0.85)
            if close and close not in settings:
                yield "warning", f"{key}: {script} knows no such key and ignores it; did you mean {close}?"
            else:
                unknown.append(key)
        elif not key.startswith("sga") and not _READ_AS_WELL.get(key, _never)(value, settings):  # SgaConfig reads ours
            level, reason = _wrong(actions[key], value)
            if reason:
                yield level, f"{key} = {json.dumps(value, default=str)}: {reason}"
    if unknown:  # a GUI's file has dozens of its own
        words = ("no such key", "it") if len(unknown) == 1 else ("none of these keys", "them")
        yield "warning", f"{', '.join(unknown)}: {script} knows {words[0]} and ignores {words[1]}"


def parse(parser: argparse.ArgumentParser, settings: Mapping[str, Any], words: Sequence[str]) -> argparse.Namespace:
    """What the script will see. settings: of the TOML. Raises SgaError with the parser's own words when it refuses."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parser.parse_args(list(words), namespace=argparse.Namespace(**settings))
    except SystemExit:
        raise SgaError(said.getvalue().strip().splitlines()[-1]) from None


def _keys_within(value: Any) -> Iterator[str]:
    """Every key of a table, at any depth."""
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        yield key
        yield from _keys_within(inner)


def _too_deep(table: str, key: str, script: str) -> str:
    return (
        f"[….{table}]: {script} reads keys at the top and in [sections], but not {key} and others in a section of a "
        "section. Files of LoRA_Easy_Training_Scripts are like that, and only its own launcher reads them: train from "
        "there, see `sga-kohya patch`, or move the keys up"
    )


def written_as(kind: Any, value: Any) -> str:
    """How to write in a TOML what is read as int, float, bool, str, list or dict. value: what stands there."""
    if kind is float and _is_number(value):
        return f"write it with a point: {float(value)}"  # where a whole number is none
    if kind is str:
        return f'write it in quotes: "{value}"'
    return {
        int: "write a whole number",
        float: "write a number",
        bool: "write true or false",
        list: "write a list in [ ]",
        dict: "write a table of keys",
    }[kind]


def _never(value: Any, settings: Mapping[str, Any]) -> bool:
    return False


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_quoted_number(value: Any) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False


def _wrong(action: argparse.Action, value: Any) -> tuple[str, str | None]:
    """How bad a value is, and why; None where it is as the parser would have it, or as good as that."""
    if action.nargs == 0:  # of a switch a script asks only whether it is true to Python
        plain = isinstance(value, bool) or value in (0, 1, "")
        return "warning", None if plain else "any text counts as true, whatever it says; write true or false"
    if isinstance(value, bool) and action.dest not in _NEVER_TRUE_OR_FALSE and _reads_one_number(action):
        return "warning", f"counts as {int(value)}; write a number, or leave it out"
    if value == "" and _listed(action):
        return "warning", None  # an empty text has no items either
    if value == "" and action.choices is not None and action.default is None:
        return "warning", "empty is not the same as left out everywhere; leave it out"
    return "error", _wrong_value(action, value)


def _reads_one_number(action: argparse.Action) -> bool:
    """Asked of the option's own type, because some are functions of the host's."""
    if not callable(action.type) or action.choices is not None or _listed(action):
        return False
    try:
        return _is_number(action.type("1"))
    except (TypeError, ValueError, argparse.ArgumentTypeError):
        return False


def _listed(action: argparse.Action) -> bool:
    return action.nargs in ("*", "+") or isinstance(action.nargs, int)


def _wrong_value(action: argparse.Action, value: Any) -> str | None:
    listed = _listed(action)
    if listed != isinstance(value, list):
        return written_as(list, value) if listed else "write a single value"
    kind: Callable[[str], Any] = action.type if callable(action.type) else str
    for item in value if listed else [value]:
        if action.choices is not None and item not in action.choices:
            return f"write one of {', '.join(map(str, action.choices))}"
        if kind in (int, float) and (isinstance(item, bool) or not isinstance(item, (int, kind))):
            return written_as(kind, item)
        if kind is str and not isinstance(item, str) and item is not False:  # `resume = false` is as good as left out
            return written_as(str, item)
        try:
            kind(str(item))
        except (TypeError, ValueError, argparse.ArgumentTypeError) as error:
            return str(error)
    return None
