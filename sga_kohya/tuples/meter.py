"""What a run shows of itself: loss by granularity and by noise level, tuples seen, fill, samples per second.

Nothing is computed while a step runs, and one small copy leaves the device when it ends.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from sga_kohya.tuples.step import SubBatch
from sga_kohya.words import UNLABELLED

_BINS = 5
_SMOOTHING = 0.98  # of the progress bar's means, so that they cover about the last fifty samples


class Meter:
    """Collects the samples of one process; `read` ends an optimizer step."""

    def __init__(self) -> None:
        self.smooth: dict[str, float] = {}
        self._clear()

    def _clear(self) -> None:
        self._labels: list[str] = []
        self._losses: list[Tensor] = []
        self._levels: list[Tensor] = []
        self._samples = self._room = 0

    def count(self, sub_batch: SubBatch, batch_size: int) -> None:
        """A sub-batch was trained on. batch_size: what its dataset allows at once."""
        self._samples += len(sub_batch.keys)
        self._room += batch_size

    def add(self, granularities: Sequence[str | None], losses: Tensor, noise_level: Tensor | None) -> None:
        """losses, noise_level: (B,), on any device; noise_level in [0, 1], None where it is not known."""
        self._labels += [label or UNLABELLED for label in granularities]
        self._losses.append(losses.detach().float())
        if noise_level is None or noise_level.numel() != losses.numel():
            noise_level = torch.full_like(losses, -1.0)
        level = noise_level.detach().flatten().to(losses)
        self._levels.append(level.float())

    def read(self, seconds: float) -> dict[str, float]:
        """Means since the last time, by tracker name. seconds: what the step took."""
        values: dict[str, list[float]] = defaultdict(list)
        if self._losses:
            losses, levels = torch.stack([torch.cat(self._losses), torch.cat(self._levels)]).tolist()
            for label, loss, level in zip(self._labels, losses, levels, strict=True):
                values[f"loss/{label}"].append(loss)
                self.smooth[label] = _SMOOTHING * self.smooth.get(label, loss) + (1 - _SMOOTHING) * loss
                if level >= 0:
                    values[f"loss/{_bin(level)}"].append(loss)
        means = {name: sum(items) / len(items) for name, items in values.items()}
        if self._room:
            means["sga/fill"] = self._samples / self._room
        means["sga/samples_per_second"] = self._samples / max(seconds, 1e-9)
        self._clear()
        return means


def _bin(level: float) -> str:
    number = min(int(level * _BINS), _BINS - 1)
    return f"noise_{number / _BINS:.1f}-{(number + 1) / _BINS:.1f}"
