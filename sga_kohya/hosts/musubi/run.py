"""Run a training script of musubi-tuner with SGA in it.

The module is imported and its `main` called, never run by its path: some versions would then hold a second copy of the
trainer, without our seams.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from sga_kohya.config import SgaConfig
from sga_kohya.hosts.door import open_door
from sga_kohya.hosts.musubi.checkout import Tuner, find_tuner
from sga_kohya.hosts.musubi.checks import check
from sga_kohya.hosts.musubi.families import HOST, SCRIPTS
from sga_kohya.kit.cli import CORRECT, OK
from sga_kohya.options import asks_for_help, read_options

NAME = "sga_kohya.musubi"
USAGE = f"""usage: python -m sga_kohya.musubi SCRIPT [OPTIONS of the script and --sga_*]

Run a training script of musubi-tuner with SGA, also under `accelerate launch -m`. SCRIPT is one of
{", ".join(SCRIPTS)}."""


def main(argv: Sequence[str] | None = None) -> None:
    """The door. Exits with code 2 on a user's error."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        sys.exit(OK if words else CORRECT)
    open_door(NAME, lambda: _prepare(Path(words[0]).stem, words[1:]), _run)


def _prepare(script: str, argv: list[str]) -> tuple[SgaConfig, Tuner, str, list[str]]:
    """Whatever words and files alone can get wrong is said here, before anything is imported or loaded."""
    options = read_options(argv, HOST)
    config = SgaConfig.from_options(options)
    tuner = find_tuner(options.get("musubi_tuner"))
    tuner.module(script)
    if not asks_for_help(argv):
        check(script, options, config)
    return config, tuner, script, argv


def _run(prepared: tuple[SgaConfig, Tuner, str, list[str]]) -> None:
    from sga_kohya.hosts.musubi.install import install_for  # only now, because it imports torch

    config, tuner, script, argv = prepared
    with install_for(config, tuner, script):
        sys.argv = [f"{script}.py", *argv]
        importlib.import_module(tuner.module(script)).main()
