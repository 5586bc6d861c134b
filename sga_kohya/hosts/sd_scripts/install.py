"""Which seams a run needs, and in they go."""

from sga_kohya.config import SgaConfig
from sga_kohya.hosts import description
from sga_kohya.hosts.sd_scripts import arguments, dataset, loss, noise, sampler, saved, settings, split, started
from sga_kohya.hosts.sd_scripts.checkout import Checkout
from sga_kohya.hosts.seam import Installation, Seam, install
from sga_kohya.options import HOST
from sga_kohya.training.session import Session

DESCRIPTION = description.seam("library.config_util.BlueprintGenerator.generate", HOST, innermost="datasets.subsets")


def install_for(config: SgaConfig, checkout: Checkout, script: str = "") -> Installation:
    """Install what the settings ask for; with all of SGA off, only what reads the host's options.

    script: the one of families.SCRIPTS that will run, "" where any may.
    """
    seams: list[Seam] = [arguments.SEAM, settings.SEAM, DESCRIPTION]
    expected: set[str] = set()
    if config.active:
        seams += [dataset.SEAM, started.CLASS_SEAM, started.SEAM, *noise.seams_of(script), loss.LOSS, *saved.SEAMS]
        expected |= {"dataset", "accelerator"}
    if config.plans_tuples:
        seams += [split.SEAM]
    if config.modulates:
        seams += [loss.SNR]
    if config.leaves_line:
        seams += sampler.seams(config.path, checkout)
    return install(seams, Session(config, frozenset(expected)), checkout.package)
