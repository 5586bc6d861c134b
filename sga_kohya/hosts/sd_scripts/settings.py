"""Seam: the host reads its TOML. What it would pass over in silence is said, and what cannot work is refused.

Every script calls `read_config_from_file(args, parser)` first of all, when nothing is loaded, not even the images. The
arguments pass unchanged. The doctor asks the same questions.
"""

import argparse
import functools
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sga_kohya.hosts.sd_scripts.families import check_modulation
from sga_kohya.hosts.seam import Seam
from sga_kohya.hosts.toml_keys import say_wrong_settings
from sga_kohya.training.output_folder import hold, is_main_process
from sga_kohya.training.session import Session

FILES: tuple[str, ...] = ("pretrained_model_name_or_path", "ae", "vae", "clip_l", "clip_g", "t5xxl", "gemma2", "qwen3")
FILES += ("byt5", "text_encoder", "llm_adapter_path", "network_weights")
"""Options that name a file or a folder."""
RUN_NAME = "sga_kohya_doctor"
"""The module's name, as it is told, of a script that is looked into."""


def _replace(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def read_config_from_file(args: argparse.Namespace, parser: argparse.ArgumentParser) -> argparse.Namespace:
        if args.config_file and not getattr(args, "output_config", False) and is_main_process():
            say_wrong_settings(parser, args.config_file)
        args = original(args, parser)
        check_modulation(session.config, args)
        if session.config.show_timesteps is None and _trains(args):
            hold(session, args)
        return args

    return read_config_from_file


def _trains(args: argparse.Namespace) -> bool:
    """Whether the host goes on to train: these two of its options only show something."""
    return not (getattr(args, "debug_dataset", False) or getattr(args, "show_timesteps", None))


def host_parser(script: Path) -> argparse.ArgumentParser:
    """The real parser of a script; its checkout must be installed into (install.py) or first on sys.path."""
    return defined_in(script)["setup_parser"]()


def defined_in(script: Path) -> dict[str, Any]:
    """What a script has at its top, by name, without training; where it must be found as of `host_parser`."""
    return runpy.run_path(str(script), run_name=RUN_NAME)


SEAM = Seam("settings", "library.train_util.read_config_from_file", ("args", "parser"), _replace)
