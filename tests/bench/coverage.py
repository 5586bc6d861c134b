"""How often the intervals hold the truth, by simulation: the reason for the way they are made.

    python tests/bench/coverage.py [--trials 1000]

Every line simulates a study or a measurement many times over from a known truth and counts how often its 95 % interval
holds it. Beside ours stand the intervals that a simpler way would give: data sets drawn and then prompts, or prompts
alone, with plain percentiles. The last lines count how often the verdict of `python -m sga_kohya.interference` finds a
direction in gradients that have none. A few minutes on one core.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sga_kohya.evaluate.plan.plan import Dataset, Plan, Variant
from sga_kohya.evaluate.rate.analysis import alpha_of, worth_intervals
from sga_kohya.evaluate.rate.ballots import Ballot, all_trials
from sga_kohya.evaluate.rate.panel import Panel
from sga_kohya.evaluate.rate.ranking import rank_shares
from sga_kohya.interference import summary
from sga_kohya.interference.summary import Level, Matrix
from sga_kohya.kit.intervals import Interval, intervals

NAMES = ("a", "b", "c")
RESAMPLES = 400


def old_intervals(units: Sequence[np.ndarray], generator: np.random.Generator) -> Interval:
    """Of the mean over data sets, as it was before: data sets are drawn, then prompts; plain percentiles."""
    draws = [
        np.mean([generator.choice(units[place], len(units[place])).mean() for place in chosen])
        for chosen in generator.integers(len(units), size=(RESAMPLES, len(units)))
    ]
    return Interval(float(np.mean([unit.mean() for unit in units])), *np.quantile(draws, [0.025, 0.975]).tolist())


def coverage(trials: int, one: Callable[[np.random.Generator], tuple[Interval, float]]) -> float:
    """Share of trials whose interval holds the truth. one: returns an interval and the truth."""
    found = [one(np.random.default_rng(seed)) for seed in range(trials)]
    return float(np.mean([interval.low <= truth <= interval.high for interval, truth in found]))


@dataclass(frozen=True)
class Metrics:
    """A metric: data sets differ, prompts scatter within them. spread: of data sets, in deviations of prompts."""

    datasets: int
    prompts: int
    spread: float = 1.0

    def one(self, generator: np.random.Generator, old: bool) -> tuple[Interval, float]:
        means = self.spread * generator.normal(size=self.datasets)
        units = [mean + generator.normal(size=(self.prompts, 1)) for mean in means]
        if old:
            return old_intervals(units, generator), float(means.mean())
        return intervals(units, RESAMPLES, 0.95, int(generator.integers(1 << 30)))[0], float(means.mean())


@dataclass(frozen=True)
class Study:
    """Raters rank three variants of each prompt. differ, spread: how much raters and data sets differ. ties: width."""

    datasets: int
    prompts: int
    raters: int
    differ: float = 0.8
    spread: float = 0.0
    ties: float = 0.3

    def plan(self, seed: int) -> Plan:
        prompts = tuple(map(str, range(self.prompts)))
        datasets = tuple(Dataset(f"d{number}", prompts, ()) for number in range(self.datasets))
        return Plan("t", None, (1,), datasets, tuple(Variant(n, n) for n in NAMES), bootstrap=RESAMPLES, seed=seed)

    def ranks(self, generator: np.random.Generator, prompts: int, raters: int) -> np.ndarray:
        """(data sets, prompts, raters, variants) of ranks; what is better in each data set stays the same."""
        fixed = self.spread * np.random.default_rng(0).normal(size=(self.datasets, 1, 1, 3)) + [0.5, 0, 0]
        size = (self.datasets, prompts, raters, 3)
        liking = fixed + 0.8 * generator.normal(size=(self.datasets, prompts, 1, 3)) + generator.gumbel(size=size)
        liking = liking + self.differ * generator.normal(size=(1, 1, raters, 3))
        return 1 + (liking[..., None, :] > liking[..., None] + self.ties).sum(-1)

    def ballots(self, plan: Plan, generator: np.random.Generator) -> list[Ballot]:
        ranks = self.ranks(generator, self.prompts, self.raters)
        return [
            Ballot(f"r{rater}", "main", trial, NAMES, {"overall": tuple(row.tolist())})
            for trial, by_rater in zip(all_trials(plan), ranks.reshape(-1, self.raters, 3), strict=True)
            for rater, row in enumerate(by_rater)
        ]

    def first(self, ballot: Ballot) -> np.ndarray:
        return rank_shares(ballot.by_variant(NAMES))[:1, 0]

    def truth(self) -> float:
        """The first-place rate of the first variant among all prompts and raters, by a large study."""
        ranks = self.ranks(np.random.default_rng(1), 600, 600 // self.datasets).reshape(-1, 3)
        best = ranks == ranks.min(axis=1, keepdims=True)
        return float((best[:, 0] / best.sum(axis=1)).mean())

    def one(self, generator: np.random.Generator, old: bool, truth: float) -> tuple[Interval, float]:
        plan = self.plan(int(generator.integers(1 << 30)))
        panel = Panel(plan, self.ballots(plan, generator))
        if not old:
            return panel.means(self.first)[0], truth
        sums, counts = panel.table([self.first(ballot) for ballot in panel.ballots])
        by_prompt = sums.sum(1) / counts.sum(1)[:, None]
        return old_intervals([by_prompt[part] for part in panel.datasets], generator), truth

    def alpha(self, generator: np.random.Generator, truth: float) -> tuple[Interval, float]:
        plan = self.plan(int(generator.integers(1 << 30)))
        return alpha_of(plan, self.ballots(plan, generator)), truth

    def worth(self, generator: np.random.Generator, truth: float) -> tuple[Interval, float]:
        plan = self.plan(int(generator.integers(1 << 30)))
        return worth_intervals(Panel(plan, self.ballots(plan, generator)))[0], truth

    def large(self, feature: Callable[[Plan, list[Ballot]], Interval], studies: int = 12) -> float:
        """A truth that has no formula: the mean of large studies."""
        wide = replace(self, prompts=60, raters=60)
        plan = wide.plan(0)
        found = [feature(plan, wide.ballots(plan, np.random.default_rng(10_000 + n))).value for n in range(studies)]
        return float(np.mean(found))


@dataclass(frozen=True)
class Steps:
    """Gradients of two granularities over tuple steps. cosine: in each, in the mean. scatter: of the log of lengths."""

    count: int
    cosine: float = 0.0
    scatter: float = 0.4

    def draws(self, generator: np.random.Generator) -> list[tuple[list[str], list[list[float]]]]:
        shared, own = generator.normal(size=(self.count, 1)), generator.normal(size=(self.count, 2))
        lengths = np.exp(self.scatter * (0.7**0.5 * shared + 0.3**0.5 * own))
        cosines = np.clip(self.cosine + 0.2 * generator.normal(size=self.count), -1, 1)
        return [
            (["macro", "micro"], [[a * a, c * a * b], [c * a * b, b * b]])
            for (a, b), c in zip(lengths, cosines, strict=True)
        ]

    def found(self, generator: np.random.Generator) -> tuple[Interval, float]:
        # E[a b] / E[a^2] of log-normal lengths whose logs correlate by 0.7
        truth = self.cosine * float(np.exp(-0.3 * self.scatter**2))
        return summary.matrix(self.draws(generator)).cosine["macro-micro"], truth

    def conflicts(self, generator: np.random.Generator) -> tuple[Interval, float]:
        return summary.matrix(self.draws(generator)).conflict["macro-micro"], 0.5

    def claims(self, generator: np.random.Generator, levels: int = 6) -> bool:
        """Whether the verdict of a measurement at several levels finds a direction."""
        none = Matrix([], [], 0)
        drawn = [self.draws(generator) for _ in range(levels)]
        made = [
            Level(0.1 * n, summary.matrix(draws), none, none, none, 1.0, 9.0, 0.9, 0.8, 0.1, {}, 0.5)
            for n, draws in enumerate(drawn)
        ]
        return any("conflict at" in text or "help each other" in text for text in summary.verdict(made))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    print("mean of a metric over data sets               ours   data sets, then prompts")
    for case in (Metrics(1, 3), Metrics(1, 8), Metrics(2, 8), Metrics(6, 8), Metrics(6, 8, 0), Metrics(6, 20)):
        rates = [coverage(trials, lambda g, c=case, o=old: c.one(g, o)) for old in (False, True)]
        print(f"{case.datasets} x {case.prompts:2} prompts, spread {case.spread:g}{rates[0]:28.3f}{rates[1]:8.3f}")
    print("first-place rate of human raters              ours   data sets, then prompts")
    sizes = (
        Study(6, 8, 20),
        Study(6, 8, 20, 0),
        Study(6, 8, 20, spread=1),
        Study(1, 8, 20),
        Study(2, 8, 8),
        Study(6, 8, 3),
    )
    for study in sizes:
        truth = study.truth()
        rates = [coverage(trials, lambda g, s=study, o=old, t=truth: s.one(g, o, t)) for old in (False, True)]
        size = f"{study.datasets} x {study.prompts} x {study.raters:2}"
        name = f"{size}, raters {study.differ:g}, data sets {study.spread:g}"
        print(f"{name:45}{rates[0]:6.3f}{rates[1]:8.3f}")
    study = Study(6, 8, 20)
    alpha = study.large(alpha_of)
    print(f"Krippendorff's alpha, {alpha:.3f}{coverage(trials // 5, lambda g: study.alpha(g, alpha)):24.3f}")
    worth = study.large(lambda plan, ballots: worth_intervals(Panel(plan, ballots))[0])
    print(f"log-worth, {worth:.3f}{coverage(trials // 5, lambda g: study.worth(g, worth)):35.3f}")
    print("interference                                cosine  conflict rate  verdicts that find a direction in none")
    for case in (Steps(8), Steps(16), Steps(40), Steps(16, 0.3), Steps(16, 0.3, 0.7)):
        line = f"{case.count:3} steps, cosine {case.cosine:g}, lengths {case.scatter:g}".ljust(40)
        line += f"{coverage(trials, case.found):7.3f}"
        if not case.cosine:
            claims = np.mean([case.claims(np.random.default_rng(seed)) for seed in range(trials // 2)])
            line += f"{coverage(trials, case.conflicts):10.3f}{claims:15.3f}"
        print(line)


if __name__ == "__main__":
    main()
