"""Bootstrap intervals over prompts and datasets, paired: every resample holds all variants of what it drew."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A number and the percentile interval of its bootstrap."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def excludes(self, number: float) -> bool:
        return not self.low <= number <= self.high


def mean_of(units: Sequence[np.ndarray]) -> np.ndarray:
    """Prompts averaged, then datasets. units: an array (prompts, features) for each dataset. Returns (features,)."""
    return np.mean([unit.mean(axis=0) for unit in units], axis=0)


def resample_means(units: Sequence[np.ndarray], count: int, generator: np.random.Generator) -> np.ndarray:
    """`mean_of` of `count` resamples. Returns (count, features).

    Each draws as many datasets as there are, with replacement, and within each draw as many prompts as it has. With one
    dataset only prompts vary, so the interval then speaks of that dataset alone.
    """
    chosen = generator.integers(len(units), size=(count, len(units)))
    means = np.empty((count, len(units), units[0].shape[1]))
    for number, unit in enumerate(units):
        slots = chosen == number
        times = generator.multinomial(len(unit), np.full(len(unit), 1 / len(unit)), size=int(slots.sum()))
        means[slots] = times @ unit / len(unit)
    return means.mean(axis=1)


def intervals(
    units: Sequence[np.ndarray],
    count: int,
    confidence: float,
    seed: int,
    statistic: Callable[[np.ndarray], np.ndarray] = lambda means: means,
) -> list[Interval]:
    """An Interval for each feature of `statistic(mean)`, which maps (..., features) to (..., anything).

    Equal seeds give equal resamples, whatever the features.
    """
    draws = statistic(resample_means(units, count, np.random.default_rng(seed)))
    return spread(statistic(mean_of(units)), draws, confidence)


def spread(values: np.ndarray, draws: np.ndarray, confidence: float) -> list[Interval]:
    """values: (features,). draws: (resamples, features)."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    return [Interval(*map(float, row)) for row in zip(values, low, high, strict=True)]
