"""Run a training script of sd-scripts with SGA in it.

The generic door: `python -m sga_kohya.launch PATH/TO/flux_train_network.py --config_file …`, also under
`accelerate launch -m`. Doors named after a script (`-m sga_kohya.flux_train_network`) find the checkout themselves.
"""

import contextlib
import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.hosts.sd_scripts.checkout import find_checkout
from sga_kohya.hosts.sd_scripts.checks import check
from sga_kohya.hosts.sd_scripts.families import SCRIPTS
from sga_kohya.options import read_options


def run(script: str, argv: Sequence[str] | None = None) -> None:
    """Run one of SCRIPTS. argv: its arguments, by default the command line's. Exits with code 2 on a user's error."""
    with errors_in_one_line():
        _run(script, list(sys.argv[1:] if argv is None else argv))


def main(argv: Sequence[str] | None = None) -> None:
    """The generic door. Skips to the first argument that is a known script; launchers put their own flags before it."""
    argv = list(sys.argv[1:] if argv is None else argv)
    with errors_in_one_line():
        place = next((i for i, word in enumerate(argv) if Path(word).name in SCRIPTS), None)
        if place is None:
            raise SgaError(f"name the script to run, one of {', '.join(SCRIPTS)}; got {' '.join(argv)!r}")
        _refuse_lost_flags(argv[:place])
        script = Path(argv[place])
        # A path says which checkout is meant, unless the command line names one.
        folder = [] if script.parent == Path() else [f"--sd_scripts={script.parent}"]
        _run(script.name, [*folder, *argv[place + 1 :]])


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """A user's error ends the process with one line and exit code 2."""
    try:
        yield
    except SgaError as error:
        print(f"sga_kohya: error: {error}", file=sys.stderr)
        sys.exit(2)


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


def _run(script: str, argv: list[str]) -> None:
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
    # Only now, because it imports torch: what words and files alone get wrong was said at once.
    from sga_kohya.hosts.sd_scripts.install import install_for

    with install_for(config, checkout):
        sys.argv = [str(path), *argv]
        runpy.run_path(str(path), run_name="__main__")


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether the run only prints or writes settings and needs no data."""
    return any(word.partition("=")[0] in ("-h", "--help", "--output_config", "--show_timesteps") for word in argv)


if __name__ == "__main__":
    main()
