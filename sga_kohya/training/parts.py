"""Which parts a run has, in the order in which they hear."""

from sga_kohya.config import SgaConfig
from sga_kohya.training.events import Part
from sga_kohya.training.modulation import FlowWeight, Modulation
from sga_kohya.training.monitor import Monitor
from sga_kohya.training.path import PathPart


def parts_of(config: SgaConfig) -> list[Part]:
    """A path is evaluated where modulation has moved sigma to; the monitor sees losses before any weight of ours."""
    parts: list[Part] = []
    if config.modulates:
        parts += [Modulation(config)]
    if config.leaves_line:
        parts += [PathPart(config.path)]
    parts += [Monitor()]
    if config.modulates and config.flow_snr_weight:
        parts += [FlowWeight(config)]
    return parts
