"""The console command: `sga-kohya COMMAND …` is `python -m sga_kohya.COMMAND …`."""

import runpy
import sys
from pathlib import Path

from sga_kohya.hosts.sd_scripts.families import SCRIPTS

COMMANDS = {
    "hsd": "decompose a folder of photos into macro, meso and micro slices",
    "partition": "label the images of an existing dataset, without cutting them",
    "evaluate": "compare models: sample, measure, let a model and people judge, report",
    "interference": "measure how granularities help or hurt each other in a trained adapter",
    "spherical": "probe a VAE, fit its decoder to the sphere, compare paths",
    "presets": "complete settings to start from",
    "doctor": "check a set-up without training",
    "demo": "see what SGA does, on this machine, without sd-scripts or a GPU",
    "reference": "train a small model or a diffusers folder by Algorithm 2, without sd-scripts",
    "launch": "run the sd-scripts script whose path follows, with SGA",
    **{Path(script).stem: f"run {script} of sd-scripts with SGA" for script in SCRIPTS},
}


def main() -> None:
    """Hand over to the command's module."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command not in COMMANDS:
        width = max(map(len, COMMANDS))
        lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
        print("usage: sga-kohya COMMAND ...", "", *lines, sep="\n")
        sys.exit(0 if command in ("", "-h", "--help") else 2)
    sys.argv = [f"sga-kohya {command}", *sys.argv[2:]]
    runpy.run_module(f"sga_kohya.{command}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
