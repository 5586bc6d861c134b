"""Which seams a run needs, and in it go."""

from sga_kohya.config import SgaConfig
from sga_kohya.hosts.sd_scripts import (
    accelerator,
    arguments,
    checkpoints,
    dataset,
    flow_weight,
    loss,
    noise,
    path,
    saved,
    settings,
    snr,
    split,
    started,
)
from sga_kohya.hosts.sd_scripts.checkout import Checkout
from sga_kohya.hosts.seam import Installation, Seam, install
from sga_kohya.training.session import Session


def install_for(config: SgaConfig, checkout: Checkout) -> Installation:
    """Install what the settings ask for; with both mechanisms off, only what reads the host's options."""
    seams: list[Seam] = [arguments.SEAM, settings.SEAM]
    expected: set[str] = set()
    if config.active:
        seams += [dataset.SEAM, accelerator.CLASS_SEAM, accelerator.SEAM, *saved.SEAMS, loss.SEAM]
        seams += checkpoints.SEAMS
        expected |= {"dataset", "accelerator"}
        seams += [*noise.SEAMS, started.SEAM]
    if config.enabled and config.tuples:
        seams += [split.SEAM]
    if config.enabled and config.modulation:
        seams += [snr.SEAM, *([flow_weight.SEAM] if config.flow_snr_weight else [])]
    if config.enabled and config.path != "linear":
        seams += path.seams(config, checkout)  # last: evaluated where modulation has moved sigma to
    return install(seams, Session(config, frozenset(expected)), checkout)
