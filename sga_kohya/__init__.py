"""Semantic Granularity Alignment (arXiv:2603.10785) for kohya-ss sd-scripts.

Run a training script through a door, `accelerate launch -m sga_kohya.flux_train_network --config_file your.toml`, or
from Python: `with install(SgaConfig(), "path/to/sd-scripts"): …` before the script is imported.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.version import __version__

if TYPE_CHECKING:
    from sga_kohya.hosts.seam import Installation

# Doors stand in a folder of their own and are reached as sga_kohya.NAME, by runpy and spawned workers too.
__path__.append(str(Path(__file__).with_name("doors")))
__all__ = ["SgaConfig", "SgaError", "__version__", "install", "uninstall"]


def install(config: SgaConfig | None = None, sd_scripts: str | Path | None = None) -> "Installation":
    """Put SGA into the sd-scripts checkout of this process. Installing again replaces the last installation.

    sd_scripts: its folder; found as by the doors if not given. Returns what can be undone, also by `with`.
    Raises SgaError when the checkout is missing or does not fit.
    """
    from sga_kohya.hosts.sd_scripts.checkout import find_checkout
    from sga_kohya.hosts.sd_scripts.install import install_for

    return install_for(config or SgaConfig(), find_checkout(str(sd_scripts) if sd_scripts else None))


def uninstall() -> None:
    """Undo the current installation, if there is one."""
    from sga_kohya.hosts.seam import uninstall_all

    uninstall_all()
