"""What the seams share during one run: the settings, the sub-batch in hand, and which seams the host has reached."""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.training.budget import Budget
from sga_kohya.training.monitor import Monitor
from sga_kohya.tuples.accelerator import TupleAccelerator
from sga_kohya.tuples.step import SubBatch

if TYPE_CHECKING:
    from torch import Tensor

    from sga_kohya.hosts.sd_scripts.dataset import HostDatasetGroup
    from sga_kohya.hosts.sd_scripts.path import PathBatch
    from sga_kohya.training.loop import HostLoop


@dataclass
class Session:
    """expected: names of the seams that must have been reached when the first optimizer step ends."""

    config: SgaConfig
    expected: frozenset[str] = frozenset()
    fired: set[str] = field(default_factory=set)
    accelerator: TupleAccelerator | None = None
    dataset: "HostDatasetGroup | None" = None
    loop: "HostLoop | None" = None
    last_epoch: int | None = (
        None  # set when a run is stopped with epochs left, which the host passes through all the same
    )
    modulation: str = ""  # the option that modulates this model, timestep_shift or snr_gamma; empty without modulation
    noise_level: "Tensor | None" = None  # (B,), in [0, 1], of the batch whose loss comes next; set by timestep seams
    path_batch: "PathBatch | None" = None  # what the next loss is taken against; set by path.py unless sga_path=linear
    monitor: Monitor = field(default_factory=Monitor)
    output_folder: Path | None = None  # which nobody else writes into, by `held`
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __post_init__(self) -> None:
        self.budget = Budget(self.config.save_at_hours, self.config.stop_at_hours)

    @property
    def current(self) -> SubBatch | None:
        """The sub-batch being trained on; None in validation, sampling and everything else outside a training step."""
        return self.accelerator.current if self.accelerator is not None else None

    def fire(self, name: str) -> None:
        """Note that the host reached a seam."""
        self.fired.add(name)

    def close(self) -> None:
        """Let go of what the run held for itself. Doing it twice is harmless."""
        self.output_folder = None
        self.held.close()

    def verify(self) -> None:
        """After an optimizer step: every seam that should have been reached was. Raises SgaError if not."""
        missed = sorted(self.expected - self.fired)
        if missed:
            raise SgaError(
                f"the first step ended and sd-scripts never reached the seams {', '.join(missed)}: this "
                "run would not be SGA. Use a tested version of sd-scripts, or train without it by --sga=false"
            )

    def metadata(self) -> dict[str, str]:
        """`ss_sga_*` entries for a saved model."""
        facts = self.config.metadata()
        if self.modulation:
            facts["ss_sga_modulated_by"] = self.modulation
        if self.dataset is not None:
            facts |= self.dataset.metadata()
        if self.accelerator is not None:
            if self.last_epoch is not None:
                facts["ss_epoch"] = str(self.last_epoch)
            facts["ss_sga_train_hours"] = f"{self.accelerator.cursor.hours:.4f}"
        return facts
