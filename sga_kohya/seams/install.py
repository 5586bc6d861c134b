"""Which seams a run needs, and in it go."""

from sga_kohya.config import SgaConfig
from sga_kohya.seams import accelerator, arguments, dataset, metadata, split, timesteps
from sga_kohya.seams.checkout import Checkout
from sga_kohya.seams.host import Installation, Seam, install
from sga_kohya.seams.session import Session


def install_for(config: SgaConfig, checkout: Checkout) -> Installation:
    """Install what the settings ask for; with both mechanisms off, only that the host accepts our options."""
    seams: list[Seam] = [arguments.SEAM]
    expected: set[str] = set()
    if config.active:
        seams += [dataset.SEAM, accelerator.CLASS_SEAM, accelerator.SEAM, metadata.SEAM]
        expected |= {"dataset", "accelerator"}
    if config.enabled and config.tuples:
        seams += [split.SEAM]
    if config.enabled and config.modulation:
        seams += [timesteps.SEAM]
        expected |= {"timesteps"}
    return install(seams, Session(config, frozenset(expected)), checkout)
