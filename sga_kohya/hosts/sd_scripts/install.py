"""Which seams a run needs, and in they go."""

from sga_kohya.config import SgaConfig
from sga_kohya.hosts.sd_scripts import arguments, dataset, loss, noise, sampler, saved, split, started
from sga_kohya.hosts.sd_scripts.checkout import Checkout
from sga_kohya.hosts.seam import Installation, Seam, install
from sga_kohya.training.session import Session


def install_for(config: SgaConfig, checkout: Checkout) -> Installation:
    """Install what the settings ask for; with all of SGA off, only that the host accepts our options."""
    seams: list[Seam] = [arguments.SEAM]
    expected: set[str] = set()
    if config.active:
        seams += [dataset.SEAM, started.CLASS_SEAM, started.SEAM, *noise.SEAMS, loss.LOSS, *saved.SEAMS]
        expected |= {"dataset", "accelerator"}
    if config.enabled and config.tuples:
        seams += [split.SEAM]
    if config.enabled and config.modulation:
        seams += [loss.SNR]
    if config.enabled and config.path != "linear":
        seams += sampler.seams(config.path, checkout)
    return install(seams, Session(config, frozenset(expected)), checkout.package)
