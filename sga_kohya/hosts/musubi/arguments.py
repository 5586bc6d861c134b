"""Seam: the host's argument parser learns our options; their values were read before (config.py)."""

import argparse
import functools
from collections.abc import Callable

from sga_kohya.config import add_arguments
from sga_kohya.hosts.seam import Seam
from sga_kohya.training.session import Session


def _replace(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def setup_parser_common() -> argparse.ArgumentParser:
        parser = original()
        add_arguments(parser)
        parser.add_argument("--musubi_tuner", default=None, help="folder of the musubi-tuner checkout")
        return parser

    return setup_parser_common


SEAM = Seam("arguments", "musubi_tuner.hv_train_network.setup_parser_common", (), _replace)
