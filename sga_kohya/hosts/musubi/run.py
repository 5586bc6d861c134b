"""Run a training script of musubi-tuner with SGA in it.

The module is imported and its `main` called, never run by its path: some versions would then hold a second copy of the
trainer, without our seams.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.hosts.musubi.checkout import find_tuner
from sga_kohya.hosts.musubi.families import SCRIPTS, check
from sga_kohya.hosts.musubi.files import check_files
from sga_kohya.kit.cli import run_command
from sga_kohya.options import read_options

NAME = "sga_kohya.musubi"
USAGE = f"""usage: python -m sga_kohya.musubi SCRIPT [OPTIONS of the script and --sga_*]

Run a training script of musubi-tuner with SGA, also under `accelerate launch -m`. SCRIPT is one of
{", ".join(SCRIPTS)}."""


def main(argv: Sequence[str] | None = None) -> int:
    """The door. Returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    return run_command(NAME, lambda: _run(Path(words[0]).stem, words[1:]), kinds=(SgaError,))


def _run(script: str, argv: list[str]) -> None:
    options = read_options(argv)
    config = SgaConfig.from_options(options)
    tuner = find_tuner(options.get("musubi_tuner"))
    module = tuner.module(script)
    check(options, config)
    if not {"-h", "--help"} & set(argv):
        check_files(options)
    # Only now, because it imports torch: what words and files alone get wrong was said at once.
    from sga_kohya.hosts.musubi.install import install_for

    with install_for(config, tuner, script):
        sys.argv = [f"{script}.py", *argv]
        importlib.import_module(module).main()
