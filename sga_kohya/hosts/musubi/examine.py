"""For the doctor: a script's parser, and a script run up to where it would load models."""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

from sga_kohya.config import SgaConfig
from sga_kohya.hosts.musubi import started
from sga_kohya.hosts.musubi.checkout import Tuner
from sga_kohya.hosts.musubi.families import Family
from sga_kohya.hosts.musubi.install import install_for
from sga_kohya.hosts.seam import Installation, Seam
from sga_kohya.training.session import Session


class _Reached(BaseException):
    """Carries what was asked for; no Exception, so that the host does not catch it."""


def host_parser(module: str) -> argparse.ArgumentParser:
    """The parser that a script makes, taken where it reads its TOML. The seams are in.

    It is asked without words, so that options which it requires of a command line must not end it.
    """

    def read_config_from_file(args: argparse.Namespace, parser: argparse.ArgumentParser) -> argparse.Namespace:
        raise _Reached(parser)

    script = importlib.import_module(module)
    with (
        mock.patch.object(script, "read_config_from_file", read_config_from_file),
        mock.patch.object(argparse.ArgumentParser, "error", lambda parser, message: None),
    ):
        return _asked(script.main, [module])


def run_to_models(module: str, words: Sequence[str], args: argparse.Namespace) -> None:
    """Let the script make its data, which the session then has. args: gets the script's own, which it has completed."""
    found = _asked(importlib.import_module(module).main, [module, *words])
    vars(args).update(vars(found))


def _asked(main: Callable[[], None], argv: list[str]) -> Any:
    """What reached a place in a script that is asked."""
    with mock.patch.object(sys, "argv", argv):
        try:
            main()
        except _Reached as reached:
            return reached.args[0]
    raise RuntimeError(f"{argv[0]} ended before it was asked anything")


def install_to_examine(config: SgaConfig, tuner: Tuner, script: str) -> Installation:
    """As install_for, but the run ends where its accelerator is made."""
    return install_for(config, tuner, script, _ends)


def _ends(family: Family) -> list[Seam]:
    def _replace(original: Callable, session: Session) -> Callable:
        def prepare_accelerator(args: argparse.Namespace) -> None:
            raise _Reached(args)

        return prepare_accelerator

    return [Seam("end", started.TARGET, ("args",), _replace)]
