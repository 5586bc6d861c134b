"""Seam: the host reads its TOML. What it would pass over in silence is said, and what cannot work is refused.

Every script calls `read_config_from_file(args, parser)` first of all, when nothing is loaded, not even the images. The
arguments pass unchanged. The doctor asks the same questions.
"""

import argparse
import contextlib
import difflib
import functools
import io
import json
import runpy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.hosts.sd_scripts.families import check_modulation
from sga_kohya.hosts.seam import Seam
from sga_kohya.options import HOST, read_options
from sga_kohya.training.output_folder import hold, is_main_process
from sga_kohya.training.session import Session

FILES: tuple[str, ...] = ("pretrained_model_name_or_path", "ae", "vae", "clip_l", "clip_g", "t5xxl", "gemma2", "qwen3")
FILES += ("byt5", "text_encoder", "llm_adapter_path", "network_weights", "sample_prompts")
"""Options that name a file or a folder."""


def _replace(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def read_config_from_file(args: argparse.Namespace, parser: argparse.ArgumentParser) -> argparse.Namespace:
        if args.config_file and not getattr(args, "output_config", False) and is_main_process():
            for _, text in wrong_settings(parser, settings_of_file(args.config_file)):
                print(f"sga_kohya: warning: --config_file {args.config_file}: {text}", flush=True)
        args = original(args, parser)
        check_modulation(session.config, args)
        if session.config.show_timesteps is None and _trains(args):
            hold(session, args)
        return args

    return read_config_from_file


def _trains(args: argparse.Namespace) -> bool:
    """Whether the host goes on to train: these two of its options only show something."""
    return not (getattr(args, "debug_dataset", False) or getattr(args, "show_timesteps", None))


def settings_of_file(name: str | None) -> dict[str, Any]:
    """The keys of a --config_file as the host merges them; none where none is named."""
    settings = read_options(["--config_file", str(name)]) if name else {}
    return {key: value for key, value in settings.items() if key != "config_file"}


def wrong_settings(
    parser: argparse.ArgumentParser, settings: Mapping[str, Any], host: str = HOST
) -> Iterator[tuple[str, str]]:
    """(level, text) of what argparse lets pass in a TOML: keys that nobody reads, values of a wrong type or choice."""
    actions = {action.dest: action for action in parser._actions}
    for key, value in settings.items():
        if key not in actions:
            close = difflib.get_close_matches(key, actions, n=1, cutoff=0.8)
            yield (
                "warning",
                f"{key}: {host} knows no such key and ignores it" + (f"; did you mean {close[0]}?" if close else ""),
            )
        elif not key.startswith("sga"):  # ours were read by SgaConfig
            reason = _wrong_value(actions[key], value)
            if reason:
                yield "error", f"{key} = {json.dumps(value, default=str)}: {reason}"


def _wrong_value(action: argparse.Action, value: Any) -> str | None:
    if action.nargs == 0:
        return None if isinstance(value, bool) else "write true or false"
    listed = action.nargs in ("*", "+") or isinstance(action.nargs, int)
    if listed != isinstance(value, list):
        return "write a list in [ ]" if listed else "write a single value"
    kind: Callable[[str], Any] = action.type if callable(action.type) else str
    for item in value if listed else [value]:
        if action.choices is not None and item not in action.choices:
            return f"write one of {', '.join(map(str, action.choices))}"
        if kind in (int, float) and (isinstance(item, bool) or not isinstance(item, (int, kind))):
            return "write a whole number" if kind is int else "write a number"
        try:
            kind(str(item))
        except (TypeError, ValueError, argparse.ArgumentTypeError) as error:
            return str(error)
    return None


def host_parser(script: Path) -> argparse.ArgumentParser:
    """The real parser of a script; its checkout must be installed into (install.py) or first on sys.path."""
    return runpy.run_path(str(script), run_name="sga_kohya_doctor")["setup_parser"]()


def parse(parser: argparse.ArgumentParser, settings: Mapping[str, Any], words: Sequence[str]) -> argparse.Namespace:
    """What the script will see. settings: of the TOML. Raises SgaError with the parser's own words when it refuses."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parser.parse_args(list(words), namespace=argparse.Namespace(**settings))
    except SystemExit:
        raise SgaError(said.getvalue().strip().splitlines()[-1]) from None


SEAM = Seam("settings", "library.train_util.read_config_from_file", ("args", "parser"), _replace)
