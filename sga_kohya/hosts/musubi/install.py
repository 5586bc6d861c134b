"""Which seams a run needs, and in they go."""

from collections.abc import Callable

from sga_kohya.config import SgaConfig
from sga_kohya.hosts import description
from sga_kohya.hosts.musubi import arguments, dataset, noise, saved, settings, started
from sga_kohya.hosts.musubi.checkout import Tuner
from sga_kohya.hosts.musubi.families import HOST, SCRIPTS, Family
from sga_kohya.hosts.seam import Installation, Seam, install
from sga_kohya.training.session import Session

DESCRIPTION = description.seam(
    "musubi_tuner.dataset.config_utils.BlueprintGenerator.generate", HOST, innermost="datasets"
)


def install_for(
    config: SgaConfig, tuner: Tuner, script: str, begin: Callable[[Family], list[Seam]] = started.seams
) -> Installation:
    """Install what the settings ask for; with all of SGA off, only that the host accepts our options.

    begin: the seams where a run begins.
    """
    seams: list[Seam] = [arguments.SEAM, settings.SEAM, DESCRIPTION]
    expected: set[str] = set()
    if config.active:
        family = SCRIPTS[script]
        overrides = [noise.OVERRIDES[family.trainer]] if family.trainer else []
        seams += [dataset.seam(family), *begin(family), noise.BASE, *overrides, *saved.SEAMS]
        expected |= {"dataset", "accelerator"}
    return install(seams, Session(config, frozenset(expected)), tuner.package)
