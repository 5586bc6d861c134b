"""The console command: `sga-kohya COMMAND …` is `python -m sga_kohya.COMMAND …`."""

import runpy
import sys
from pathlib import Path

from sga_kohya.errors import SgaError
from sga_kohya.hosts.sd_scripts.families import SCRIPTS
from sga_kohya.kit.cli import run_command
from sga_kohya.kit.hints import did_you_mean
from sga_kohya.version import __version__

NAME = "sga-kohya"
COMMANDS = {
    "hsd": "decompose a folder of photos into macro, meso and micro slices",
    "partition": "label the images of an existing dataset, without cutting them",
    "evaluate": "compare models: sample, measure, let a model and people judge, report",
    "interference": "measure how granularities help or hurt each other in a trained adapter",
    "spherical": "probe a VAE, fit its decoder to the sphere, compare paths",
    "presets": "complete settings to start from",
    "patch": "let tools that run sd-scripts by path train with SGA",
    "doctor": "check a set-up without training",
    "demo": "see what SGA does, on this machine, without sd-scripts or a GPU",
    "reference": "train a small model or a diffusers folder by Algorithm 2, without sd-scripts",
    "launch": "run the sd-scripts script whose path follows, with SGA",
    "musubi": "run the script of musubi-tuner whose name follows, with SGA",
    **{Path(script).stem: f"run {script} of sd-scripts with SGA" for script in SCRIPTS},
}
_HELP = ("-h", "--help")


def main() -> None:
    """Hand over to the command's module, or end with what there is."""
    command = sys.argv[1] if len(sys.argv) > 1 else _HELP[0]
    if command not in COMMANDS:
        sys.exit(run_command(NAME, lambda: _answer(command)))
    sys.argv = [f"{NAME} {command}", *sys.argv[2:]]
    runpy.run_module(f"sga_kohya.{command}", run_name="__main__", alter_sys=True)


def _answer(word: str) -> None:
    """Raises SgaError for what is neither a command nor an option."""
    if word == "--version":
        print(NAME, __version__)
    elif word in _HELP:
        width = max(map(len, COMMANDS))
        lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
        print(f"usage: {NAME} COMMAND ...\n       {NAME} --version", "", *lines, sep="\n")
    else:
        raise SgaError(f"there is no command {word!r}: {did_you_mean(word, COMMANDS)}")


if __name__ == "__main__":
    main()
