"""What a host must be able to say of a run, so that its plan can be shown before a model is loaded."""

from typing import Protocol

from torch import Tensor


class Levels(Protocol):
    """modulation: the option that modulates the model, timestep_shift or snr_gamma."""

    modulation: str

    def noise_levels(self, label: str | None, bucket: tuple[int, int], count: int) -> Tensor:
        """Noise levels of a granularity's training samples, as they will be drawn and moved.

        bucket: (width, height) in pixels. Returns sigma, (count,), in [0, 1]. For timestep_shift only.
        """

    def snr_weights(self, label: str | None) -> Tensor:
        """The weight of a granularity's loss at each timestep of a U-Net, (1000,). For snr_gamma only."""

    def advice(self) -> list[str]:
        """What looks wrong in the host's own settings, a sentence each."""
