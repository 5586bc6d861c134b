"""What a host must be able to say of a run, so that its plan can be shown before a model is loaded."""

from typing import Protocol, cast

from torch import Tensor

from sga_kohya.training.memory import Load, Model
from sga_kohya.tuples.groups import Cell

Size = tuple[int, int]
"""Width and height in pixels."""


def size_of(cell: Cell) -> Size:
    """Of its bucket, which the planner only compares, and which every host makes of a size."""
    return cast(Size, cast(tuple, cell.bucket)[:2])


class Levels(Protocol):
    """modulation: the option that modulates the model, timestep_shift or snr_gamma."""

    modulation: str

    def noise_levels(self, label: str | None, bucket: Size, count: int) -> Tensor:
        """Noise levels of a granularity's training samples, as they will be drawn and moved.

        Returns sigma, (count,), in [0, 1]. For timestep_shift only.
        """

    def snr_weights(self, label: str | None) -> Tensor:
        """The weight of a granularity's loss at each timestep of a U-Net, (1000,). For snr_gamma only."""

    def memory(self, batch: int, side: int, frames: int = 1) -> tuple[Model, Load] | None:
        """What is trained, and how, of the largest sub-batch there is; None where nobody knows the model's numbers.

        side: of the square of its pictures' area, in pixels. frames: of a clip.
        """

    def advice(self) -> list[str]:
        """What looks wrong in the host's own settings, a sentence each."""
