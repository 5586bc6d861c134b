"""Stage 5: the claims, what counts as support, and what the runs say. Written before the runs were.

Of each claim every comparison is a difference, one a seed, between two arms on the same photos, with Student's 95 %
interval. Errors are differences in percent of the other arm's, positive where the claimed side is better. MARGIN is the
least benefit that would matter to a user.

    supported       every comparison that the claim needs has its interval above 0
    not supported   some needed comparison has its interval below the margin: a benefit that matters is excluded
    not decided     anything else

"As good in less time" (claim 4) has another rule: supported where no more than the margin is lost, not supported where
the interval is below 0 and more than the margin may be lost.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sga_kohya.kit.intervals import Interval, student
from tests.bench.evidence.corpora import LEVELS
from tests.bench.evidence.measures import HALVES, NOISE_LEVELS
from tests.bench.evidence.study import STOCK, best_rates

SUPPORTED, NOT_SUPPORTED, NOT_DECIDED = "supported", "not supported", "not decided"
MARGIN = 1.0
"""Per cent of the error."""
COSINE_MARGIN = 0.02

Row = dict[str, Any]
Measure = Callable[[Row], float]


@dataclass(frozen=True)
class Comparison:
    """this over other: a positive difference speaks for the claim. needed: whether the verdict depends on it."""

    words: str
    found: Interval
    seeds: int
    margin: float
    needed: bool = True
    as_good: bool = False

    @property
    def verdict(self) -> str:
        if not self.found.bounded:
            return NOT_DECIDED
        if self.as_good:
            if self.found.low >= -self.margin:
                return SUPPORTED
            return NOT_SUPPORTED if self.found.high < 0 else NOT_DECIDED
        if self.found.low > 0:
            return SUPPORTED
        return NOT_SUPPORTED if self.found.high < self.margin else NOT_DECIDED


@dataclass(frozen=True)
class Claim:
    number: int
    title: str
    says: str
    comparisons: Sequence[Comparison]

    @property
    def verdict(self) -> str:
        found = [one.verdict for one in self.comparisons if one.needed]
        if NOT_SUPPORTED in found:
            return NOT_SUPPORTED
        return SUPPORTED if found and set(found) == {SUPPORTED} else NOT_DECIDED


class Runs:
    """The finished runs of a cell. choosing: seeds by which rates are chosen."""

    def __init__(self, rows: Sequence[Row], choosing: int):
        self.rows, self.choosing = rows, choosing
        self.best = best_rates(rows, choosing) if rows else {}
        self._by = {(row["arm"], row["lr"], row["seed"]): row for row in rows}

    def at(self, arm: str, own: bool = True) -> dict[int, Row]:
        """Rows by seed, at the arm's own best rate or at stock practice's."""
        lr = self.best.get(arm if own else STOCK)
        return {seed: row for (name, rate, seed), row in self._by.items() if name == arm and rate == lr}

    def differences(self, this: str, other: str, measure: Measure, own: bool, relative: bool) -> list[float]:
        left, right = self.at(this, own), self.at(other, own)
        pairs = [(measure(left[seed]), measure(right[seed])) for seed in sorted(left.keys() & right.keys())]
        return [100 * (b - a) / b if relative else a - b for a, b in pairs]


def optimum(errors: dict[float, float]) -> float:
    """The rate of least error: the vertex of the parabola through the best rate and its neighbours, over the log of the
    rate; NaN where the best one is the grid's end, or the three lie on a line. errors: by rate."""
    rates = sorted(errors)
    best = rates.index(min(rates, key=errors.__getitem__))
    if best in (0, len(rates) - 1):
        return math.nan
    (x0, y0), (x1, y1), (x2, y2) = ((math.log(rate), errors[rate]) for rate in rates[best - 1 : best + 2])
    left, right = (x1 - x0) * (y1 - y2), (x1 - x2) * (y1 - y0)
    if left == right:
        return math.nan
    return math.exp(x1 - 0.5 * ((x1 - x0) * left - (x1 - x2) * right) / (left - right))


def error(
    passes: int | None = None,
    levels: Sequence[str] = LEVELS,
    noise: Sequence[float] = NOISE_LEVELS,
    half: str = HALVES[1],
) -> Measure:
    """Mean held-out error over those granularities and noise levels. passes: None for the end."""

    def measure(row: Row) -> float:
        point = next(p for p in reversed(row["curve"]) if passes in (None, p["passes"]))
        table = point[half]
        return fmean(table[LEVELS.index(level)][NOISE_LEVELS.index(at)] for level in levels for at in noise)

    return measure


def best_point(row: Row) -> int:
    """The passes of least error on the half for choosing."""
    return min((p["passes"] for p in row["curve"]), key=lambda passes: error(passes, half=HALVES[0])(row))


def stopped(levels: Sequence[str] = LEVELS) -> Measure:
    """As `error`, at each run's best stopping point."""
    return lambda row: error(best_point(row), levels)(row)


def lower_error(
    runs: Runs, this: str, other: str, words: str, measure: Measure | None = None, own: bool = True, needed: bool = True
) -> Comparison:
    values = runs.differences(this, other, measure or error(), own, relative=True)
    return Comparison(words, interval_of(values), len(values), MARGIN, needed)


def higher(runs: Runs, this: str, other: str, key: str, words: str, margin: float, needed: bool = True) -> Comparison:
    """At one rate for both, so that gradients are compared on the same footing."""
    values = runs.differences(this, other, lambda row: float(row[key]), own=False, relative=False)
    return Comparison(words, interval_of(values), len(values), margin, needed)


def interval_of(values: Sequence[float]) -> Interval:
    """Student's; NaN of none."""
    return student(values) if values else Interval(float("nan"))


TUPLES, BATCHES = "without modulation", ("accumulation", "stratified")
"""Tuples alone, and controls of as many sub-batches a step that are no tuples."""


def claims(dit: Runs, unet: Runs, short: int, whole: int) -> list[Claim]:
    """short, whole: passes of N1 and 1.5 N1."""
    return [*claims_of(dit, short, whole), _parts(dit, unet)]


def claims_of(runs: Runs, short: int, whole: int) -> list[Claim]:
    """Those that one ground can tell of by itself."""
    return [_damping(runs), _modulation(runs), _slices(runs), _faster(runs, short, whole)]


def _damping(runs: Runs) -> Claim:
    found = [
        higher(runs, TUPLES, other, "cosine", f"cosine of consecutive gradients, tuples minus {other}", COSINE_MARGIN)
        for other in (STOCK, *BATCHES)
    ]
    # of steps as large and as many only: fewer steps are straighter by themselves
    found += [
        higher(runs, TUPLES, other, key, f"{words}, tuples minus {other}", margin, needed=False)
        for key, words, margin in (
            ("signal", "squared mean gradient over mean square", 0.02),
            ("efficiency", "path efficiency", 0.02),
        )
        for other in BATCHES
    ]
    found += [
        lower_error(runs, TUPLES, other, f"% of held-out error that tuples save against {other}", needed=False)
        for other in (STOCK, *BATCHES)
    ]
    says = "smoother than h-sd, and smoother than both controls of an equal batch"
    return Claim(1, "Tuples damp oscillation", says, found)


def _modulation(runs: Runs) -> Claim:
    others = (TUPLES, "opposite", "one common", "one common, low")
    found = [
        lower_error(runs, "full", other, f"% of held-out error that modulation saves against {other}")
        for other in others
        if runs.at(other)
    ]
    places = (("macro", NOISE_LEVELS[-2:], "macro at high noise"), ("micro", NOISE_LEVELS[:2], "micro at low noise"))
    found += [
        lower_error(
            runs,
            "full",
            TUPLES,
            f"% of the error of {words} that it saves",
            error(levels=[level], noise=at),
            needed=False,
        )
        for level, at, words in places
    ]
    found += [
        lower_error(runs, "without tuples", STOCK, "% that modulation saves without tuples, against h-sd", needed=False)
    ]
    return Claim(
        2,
        "Modulation puts each granularity where it learns",
        "less error than without, turned round, and with one Delta for all",
        found,
    )


def _slices(runs: Runs) -> Claim:
    found = [
        lower_error(runs, STOCK, "raw", "% of held-out error that slices save against photos, all granularities"),
        lower_error(runs, STOCK, "raw", "the same, each stopped at its best point", stopped(), needed=False),
    ]
    found += [
        lower_error(
            runs,
            STOCK,
            "raw",
            f"% saved on {level} slices, each stopped at its best point",
            stopped([level]),
            needed=level == "macro",
        )
        for level in LEVELS
    ]
    return Claim(
        3, "Slices amplify the signal", "less error than photos over all granularities, and on whole views alone", found
    )


def _faster(runs: Runs, short: int, whole: int) -> Claim:
    found = []
    for other in ("raw", STOCK):
        left, right = runs.at("full"), runs.at(other)
        seeds = sorted(left.keys() & right.keys())
        values = [100 * (error(whole)(right[s]) - error(short)(left[s])) / error(whole)(right[s]) for s in seeds]
        words = f"% of held-out error, full after {short} passes against {other} after {whole}"
        found.append(Comparison(words, interval_of(values), len(values), MARGIN, as_good=True))
    return Claim(4, "Faster", "full at N1 is as good as photos and as h-sd at 1.5 N1", found)


def _parts(dit: Runs, unet: Runs) -> Claim:
    found = []
    for runs, name, sign in ((dit, "DiT", 1), (unet, "U-Net", -1)):
        modulation = runs.differences("full", TUPLES, error(), True, True)
        tuples = runs.differences("full", "without tuples", error(), True, True)
        values = [sign * (a - b) for a, b in zip(modulation, tuples, strict=False)]
        words = f"% of error that {'modulation saves' if sign > 0 else 'tuples save'} of a {name} beyond the other part"
        found.append(Comparison(words, interval_of(values), len(values), MARGIN))
    return Claim(5, "A DiT needs modulation more, a U-Net tuples", "both differences above 0", found)
