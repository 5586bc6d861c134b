"""What patches/library.patch calls while a checkout's `library` is imported, before anything else of sd-scripts.

For tools that run a script by its path. The seams are in before the script imports anything by name, as with our doors;
unlike there, SGA is off unless --sga, or `sga = true` in the TOML, asks for it.
"""

import multiprocessing
import sys
from pathlib import Path

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.hosts.sd_scripts.checkout import Checkout
from sga_kohya.hosts.sd_scripts.checks import check
from sga_kohya.hosts.sd_scripts.families import SCRIPTS
from sga_kohya.launch import asks_for_help, errors_in_one_line
from sga_kohya.options import read_options


def load(library: str) -> None:
    """Install what the command line of this process asks for. library: path of the patched `library/__init__.py`."""
    root = Path(library).resolve().parents[1]
    script = Path(sys.argv[0]).resolve()
    # Something else imports this checkout: one of our doors, a GUI that reads its options.
    if script.parent != root or _is_data_loader_worker():
        return
    with errors_in_one_line():
        _load(Checkout(root), script.name, sys.argv[1:])


def _load(checkout: Checkout, script: str, argv: list[str]) -> None:
    options = read_options(argv)
    config = SgaConfig.from_options(options, enabled=False)
    words = [word for word in argv if word.startswith("--sga")]
    if not config.enabled and not words:
        return
    if script not in SCRIPTS:
        raise SgaError(f"SGA has no seams into {script}: leave out {words[0] if words else 'sga = true'} for it")
    if not config.enabled:
        print(f"sga_kohya: without --sga this is stock sd-scripts, whatever {words[0]} says", flush=True)
    elif not asks_for_help(argv):
        if SCRIPTS[script] and options.get("network_module"):
            print(f"sga_kohya: {script} ignores network_module; adapters are trained by {SCRIPTS[script]}", flush=True)
        check(options, config)
    checkout.script(script)
    from sga_kohya.hosts.sd_scripts.install import install_for  # imports torch: only for those who asked

    install_for(config, checkout)


def _is_data_loader_worker() -> bool:
    """A spawned process imports the main script again to unpickle its work; it needs no seams to read images."""
    return getattr(multiprocessing.current_process(), "_inheriting", False)
