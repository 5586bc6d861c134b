"""Run a training script of sd-scripts with SGA in it.

The generic door: `python -m sga_kohya.launch PATH/TO/flux_train_network.py --config_file …`, also under
`accelerate launch -m`. Doors named after a script (`-m sga_kohya.flux_train_network`) find the checkout themselves.
"""

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.hosts.door import open_door
from sga_kohya.hosts.sd_scripts.checkout import Checkout, find_checkout
from sga_kohya.hosts.sd_scripts.checks import check
from sga_kohya.hosts.sd_scripts.families import SCRIPTS
from sga_kohya.kit.hints import closest
from sga_kohya.options import asks_for_help, read_options

NAME = "sga_kohya"


def run(script: str, argv: Sequence[str] | None = None) -> None:
    """Run one of SCRIPTS. argv: its arguments, by default the command line's. Exits with code 2 on a user's error."""
    _start(script, list(sys.argv[1:] if argv is None else argv))


def main(argv: Sequence[str] | None = None) -> None:
    """The generic door. Skips to the first argument that is a known script; launchers put their own flags before it."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (["-h"], ["--help"]):
        print("usage: python -m sga_kohya.launch PATH/TO/SCRIPT.py [its options]", "", *SCRIPTS, sep="\n")
        return
    _start(None, words)


def _start(script: str | None, argv: list[str]) -> None:
    open_door(NAME, lambda: _prepare(script, argv) if script else _prepare(*_script_among(argv)), _run)


def _script_among(argv: list[str]) -> tuple[str, list[str]]:
    """The script that a launcher's words name, and what follows it."""
    place = next((i for i, word in enumerate(argv) if Path(word).name in SCRIPTS), None)
    if place is None:
        raise SgaError(_no_script(argv))
    _refuse_lost_flags(argv[:place])
    script = Path(argv[place])
    # A path says which checkout is meant, unless the command line names one.
    folder = [] if script.parent == Path() else [f"--sd_scripts={script.parent}"]
    return script.name, [*folder, *argv[place + 1 :]]


def _no_script(argv: Sequence[str]) -> str:
    """Why none of these words is a script that can be run."""
    script = next((Path(word).name for word in argv if word.endswith(".py") and not word.startswith("-")), None)
    if script is None:
        given = f"; got {' '.join(argv)!r}" if argv else ""
        return f"name the script to run, one of {', '.join(SCRIPTS)}{given}"
    close = closest(script, SCRIPTS, cutoff=0.9)
    hint = f" Did you mean {close}?" if close else ""
    return f"there is no door for {script}: SGA has no seams into it.{hint} Doors are {', '.join(SCRIPTS)}"


def _refuse_lost_flags(words: Sequence[str]) -> None:
    """accelerate takes no flag behind `-m sga_kohya.launch`: say so, and stop where it chose the devices."""
    if not words:
        return
    lost = " ".join(words)
    advice = f"accelerate did not see {lost!r}; write what you need of it before `-m sga_kohya.launch`"
    options, running = read_options(words), os.environ.get("WORLD_SIZE", "1")
    other_gpus = options.get("gpu_ids", "all") not in ("all", os.environ.get("CUDA_VISIBLE_DEVICES"))
    if (
        other_gpus
        or str(options.get("num_processes", running)) != running
        or ("multi_gpu" in options and running == "1")
    ):
        raise SgaError(f"{advice}, such as `--num_processes 2 -m sga_kohya.launch`")
    print(f"sga_kohya: {advice}", flush=True)


def _prepare(script: str, argv: list[str]) -> tuple[SgaConfig, Checkout, Path, list[str]]:
    """Whatever words and files alone can get wrong is said here, before anything is imported or loaded."""
    options = read_options(argv)
    config = SgaConfig.from_options(options)
    trainer = SCRIPTS[script]
    if trainer is not None and options.get("network_module"):
        print(f"sga_kohya: network_module is set, so this runs {trainer} instead of {script}", flush=True)
        script = trainer
    checkout = find_checkout(options.get("sd_scripts"))
    path = checkout.script(script)
    if not asks_for_help(argv):
        check(options, config)
    return config, checkout, path, argv


def _run(prepared: tuple[SgaConfig, Checkout, Path, list[str]]) -> None:
    from sga_kohya.hosts.sd_scripts.install import install_for  # only now, because it imports torch

    config, checkout, path, argv = prepared
    with install_for(config, checkout, path.name):
        sys.argv = [str(path), *argv]
        runpy.run_path(str(path), run_name="__main__")


if __name__ == "__main__":
    main()
