"""What patches/library.patch calls while a checkout's `library` is imported, before anything else of sd-scripts.

For tools that run a script by its path. The seams are in before the script imports anything by name, as with our doors;
unlike there, SGA is off unless --sga, or `sga = true` in the TOML, asks for it.
"""

import multiprocessing
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from sga_kohya.config import SgaConfig, is_ours
from sga_kohya.errors import SgaError
from sga_kohya.hosts.sd_scripts.checkout import Checkout
from sga_kohya.hosts.sd_scripts.checks import check
from sga_kohya.hosts.sd_scripts.families import SCRIPTS
from sga_kohya.kit.cli import errors_in_one_line, show_every_character
from sga_kohya.options import asks_for_help, read_options


def load(library: str) -> None:
    """Install what the command line of this process asks for. library: path of the patched `library/__init__.py`."""
    root = Path(library).resolve().parents[1]
    script = Path(sys.argv[0]).resolve()
    # Something else imports this checkout: one of our doors, a GUI that reads its options.
    if script.parent != root or _is_data_loader_worker():
        return
    show_every_character()
    with errors_in_one_line():
        _load(Checkout(root), script.name, sys.argv[1:])


def _load(checkout: Checkout, script: str, argv: list[str]) -> None:
    options = read_options(argv)
    config = SgaConfig.from_options(options, enabled=False)
    words = [word for word in argv if word.startswith("--sga")] or _settings_without_sga(options)
    if not config.enabled and not words:
        return
    if script not in SCRIPTS:
        raise SgaError(f"SGA has no seams into {script}: leave out {words[0] if words else 'sga = true'} for it")
    if not config.enabled:
        print(f"sga_kohya: without --sga this is stock sd-scripts, whatever {words[0]} says", flush=True)
    elif not asks_for_help(argv):
        if SCRIPTS[script] and options.get("network_module"):
            print(f"sga_kohya: {script} ignores network_module; adapters are trained by {SCRIPTS[script]}", flush=True)
        # A full fine-tune trains without an adapter, whatever the settings say.
        check({**options, "network_module": None} if SCRIPTS[script] else options, config)
    checkout.script(script)
    from sga_kohya.hosts.sd_scripts.install import install_for  # imports torch: only for those who asked

    install_for(config, checkout, script)
    _end_in_one_line()


def _end_in_one_line() -> None:
    """As doors end, for what our seams refuse when this module has long returned to the script."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if not isinstance(error, SgaError):
            before(kind, error, traceback)
            return
        with errors_in_one_line():
            raise error  # Python takes the exit status of a SystemExit that its hook raises

    sys.excepthook = hook


def _settings_without_sga(options: Mapping[str, Any]) -> list[str]:
    """Our keys where the TOML has an [sga] section, which the patch noticed, but no `sga`."""
    return [] if "sga" in options else sorted(key for key in options if is_ours(key))


def _is_data_loader_worker() -> bool:
    """A spawned process imports the main script again to unpickle its work; it needs no seams to read images."""
    return getattr(multiprocessing.current_process(), "_inheriting", False)
