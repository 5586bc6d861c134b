"""Seam: the host's argument parser learns our options.

Every training script builds its parser through `add_config_arguments`. Only then do --sga_* words pass the host's
parser, show in its --help and survive --output_config. Their values were read before (config.py); the host ignores
them.
"""

import argparse
import functools
from collections.abc import Callable

from sga_kohya.config import add_arguments
from sga_kohya.hosts.seam import Seam
from sga_kohya.training.session import Session


def _replace(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def add_config_arguments(parser: argparse.ArgumentParser) -> None:
        original(parser)
        add_arguments(parser)
        parser.add_argument("--sd_scripts", default=None, help="folder of the sd-scripts checkout")

    return add_config_arguments


SEAM = Seam("arguments", "library.config_util.add_config_arguments", ("parser",), _replace)
