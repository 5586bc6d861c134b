"""Seam: the host reads its TOML. Keys of it that nobody reads are said; the arguments pass unchanged."""

import argparse
import functools
from collections.abc import Callable

from sga_kohya.hosts.musubi.families import HOST
from sga_kohya.hosts.seam import Seam
from sga_kohya.hosts.toml_keys import say_wrong_settings
from sga_kohya.training.output_folder import is_main_process
from sga_kohya.training.session import Session


def _replace(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def read_config_from_file(args: argparse.Namespace, parser: argparse.ArgumentParser) -> argparse.Namespace:
        if args.config_file and is_main_process():
            say_wrong_settings(parser, args.config_file, HOST)
        return original(args, parser)

    return read_config_from_file


SEAM = Seam("settings", "musubi_tuner.hv_train_network.read_config_from_file", ("args", "parser"), _replace)
