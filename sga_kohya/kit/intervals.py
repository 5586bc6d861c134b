"""Intervals for the whole package: a bootstrap whose percentiles are expanded for few units, Wilson's for rates,
Student's for a mean of few independent runs.

A statistic is a function of how often each unit was drawn; drawn once each, it is the value itself. What was drawn
independently is a `Factor`, and factors may be crossed: with raters who all rank the same prompts, a draw takes raters
and prompts, each with replacement, and every ranking counts as often as its rater was drawn times its prompt.

Plain percentiles of a bootstrap are too narrow by sqrt((n - 1) / n) and by the normal's place for Student's; expanded
ones (Hesterberg, The American Statistician 69 (2015) 371) take the share Phi(-sqrt(n / (n - 1)) t) off each end.
`python tests/bench/coverage.py` simulates how often the intervals hold the truth.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from sga_kohya.kit.text import UNDEFINED, numeral

_NORMAL = NormalDist()
_RESOLVED = 10  # draws beyond a percentile that make it a figure and not an accident
_ALL_BUT_NORMAL = 1000  # degrees of freedom


@dataclass(frozen=True)
class Interval:
    """A number and its interval; low and high are NaN where none can be given, value too where it is undefined."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def __str__(self) -> str:
        return self.words(".3f")

    def words(self, spec: str, scale: float = 1.0, unit: str = "") -> str:
        """The value and its brackets, or a dash alone where the value is not defined."""
        return f"{numeral(scale * self.value, spec)}{unit} {self.brackets(spec, scale)}" if self.known else UNDEFINED

    def brackets(self, spec: str, scale: float = 1.0) -> str:
        """[low, high], each times `scale` and written by `spec`; [?] where there is no interval."""
        ends = (numeral(scale * end, spec) for end in (self.low, self.high))
        return f"[{', '.join(ends)}]" if self.bounded else "[?]"

    @property
    def known(self) -> bool:
        return math.isfinite(self.value)

    @property
    def bounded(self) -> bool:
        return not (math.isnan(self.low) or math.isnan(self.high))

    def excludes(self, number: float) -> bool:
        """Whether the interval lies on one side of the number; an interval that is not known excludes nothing."""
        return self.low > number or self.high < number


@dataclass(frozen=True)
class Factor:
    """Units drawn independently, in strata that stay as they are: the prompts of fixed data sets, (8, 8, 5).

    Units of one stratum are `(n,)`.
    """

    strata: tuple[int, ...]

    @property
    def size(self) -> int:
        return sum(self.strata)

    @property
    def freedom(self) -> int:
        """Degrees of freedom. 0, so no interval, where a stratum has one unit and hence no known spread."""
        return self.size - len(self.strata) if min(self.strata, default=0) > 1 else 0

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """How often each unit is in each of `count` resamples, which are as large as the strata. (count, size)."""
        parts = [generator.multinomial(size, np.full(size, 1 / size), size=count) for size in self.strata]
        return np.concatenate(parts, axis=1).astype(float)


Statistic = Callable[..., np.ndarray]
"""Of how often each unit counts, (draws, size) for each factor. Returns (draws, features), NaN where undefined."""


def resampled(
    statistic: Statistic,
    factors: Sequence[Factor],
    count: int,
    confidence: float,
    seed: int,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> list[Interval]:
    """An Interval for each feature of a statistic. Equal seeds give equal resamples, whatever the statistic.

    limits: what the features cannot exceed.
    """
    generator = np.random.default_rng(seed)
    values = statistic(*(np.ones((1, factor.size)) for factor in factors))[0]
    draws = statistic(*(factor.draw(count, generator) for factor in factors))
    return spread(values, draws, factors, confidence, limits)


def spread(
    values: np.ndarray,
    draws: np.ndarray,
    factors: Sequence[Factor],
    confidence: float,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> list[Interval]:
    """values: (features,). draws: (resamples, features). Of crossed factors the one with the fewest units decides."""
    wide = max((expansion(factor, confidence) for factor in factors), default=math.inf)
    return [
        Interval(float(value), *np.clip(_percentiles(float(value), column, wide), *limits).tolist())
        for value, column in zip(values, draws.T, strict=True)
    ]


def expansion(factor: Factor, confidence: float) -> float:
    """How many standard errors of the bootstrap an interval reaches out: sqrt(n / (n - strata)) t."""
    if not factor.freedom:
        return math.inf
    return math.sqrt(factor.size / factor.freedom) * student_quantile((1 + confidence) / 2, factor.freedom)


def _percentiles(value: float, draws: np.ndarray, wide: float) -> tuple[float, float]:
    """The percentiles at Phi(-wide) and Phi(wide).

    Where so few draws lie beyond them that they say nothing, the last percentiles that do are taken, and their
    distances to the value stretched as a normal's would be.
    """
    draws = draws[np.isfinite(draws)]
    if len(draws) < 2 * _RESOLVED or not math.isfinite(value + wide):
        return math.nan, math.nan
    near = min(wide, -_NORMAL.inv_cdf(min(_RESOLVED / len(draws), 0.25)))
    low, high = np.quantile(draws, [_NORMAL.cdf(-near), _NORMAL.cdf(near)])
    return min(value, value + wide / near * (low - value)), max(value, value + wide / near * (high - value))


def mean_of(units: Sequence[np.ndarray]) -> np.ndarray:
    """Prompts averaged, then data sets. units: an array (prompts, features) for each data set. Returns (features,)."""
    return np.mean([unit.mean(axis=0) for unit in units], axis=0)


def intervals(
    units: Sequence[np.ndarray],
    count: int,
    confidence: float,
    seed: int,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> list[Interval]:
    """Of `mean_of`, for these data sets: their prompts are drawn, the data sets stay."""
    factor = Factor(tuple(len(unit) for unit in units))
    ends = np.cumsum(factor.strata)[:-1]

    def means(times: np.ndarray) -> np.ndarray:
        parts = zip(np.split(times, ends, axis=1), units, strict=True)
        return np.mean([part @ unit / len(unit) for part, unit in parts], axis=0)

    return resampled(means, [factor], count, confidence, seed, limits)


def student(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of independent values, such as one paired difference a seed, with Student's interval; [?] of one."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean)
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = student_quantile((1 + confidence) / 2, len(values) - 1) * error
    return Interval(mean, mean - half, mean + half)


def wilson(hits: int, count: int, confidence: float) -> Interval:
    """A rate, hits / count, with Wilson's interval, which holds for few trials and for rates of 0 and 1."""
    if not count:
        return Interval(math.nan)
    z = _NORMAL.inv_cdf((1 + confidence) / 2)
    rate, share = hits / count, z * z / count
    middle = (rate + share / 2) / (1 + share)
    half = z * math.sqrt(rate * (1 - rate) / count + share / (4 * count)) / (1 + share)
    # min, max: at 0 and 1 an end is the rate itself, but for rounding
    return Interval(rate, max(0.0, min(rate, middle - half)), min(1.0, max(rate, middle + half)))


def chance_of_sum(values: np.ndarray, count: int, seed: int) -> float:
    """How often a sum at least as far from 0 comes out when each value's sign is thrown: an exact test of symmetry.

    It holds for few values and for values of very different size, where far percentiles do not. values: (n,).
    """
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(count, len(values)))
    far = abs(values.sum()) - 1e-12 * np.abs(values).sum()  # rounding must not decide between equal sums
    return (1 + int((np.abs(signs @ values) >= far).sum())) / (1 + count)


def student_quantile(probability: float, freedom: int) -> float:
    """Of Student's t with `freedom` degrees of freedom, for a probability above 0.5, by halving."""
    if freedom > _ALL_BUT_NORMAL:
        return _NORMAL.inv_cdf(probability)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        inside = _student_inside(middle, freedom)
        low, high = (middle, high) if inside < 2 * probability - 1 else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _student_inside(angle: float, freedom: int) -> float:
    """P(|t| < sqrt(freedom) tan(angle)); Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    odd, square = freedom % 2, math.cos(angle) ** 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= square * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
