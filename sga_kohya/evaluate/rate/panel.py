"""Rankings laid out by prompt and rater, and intervals over what was drawn: prompts of fixed data sets, and raters.

Every rater sees the same prompts, so the two are crossed and are resampled together. Data sets are the ones of the
plan, not a sample of others. A single rater, such as a judge, stays as it is.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sga_kohya.evaluate.plan.plan import Plan
from sga_kohya.evaluate.rate.ballots import Ballot
from sga_kohya.kit.intervals import Factor, Interval, Statistic, resampled

NO_LIMITS = (-math.inf, math.inf)


@dataclass(frozen=True)
class Panel:
    """Some ballots, at least one. pooled: few of them, so that their prompts are one lot and not one a data set."""

    plan: Plan
    ballots: Sequence[Ballot]
    pooled: bool = False

    @cached_property
    def prompts(self) -> list[tuple[int, int]]:
        """(place of the data set, prompt) of every prompt with ballots, by data set."""
        datasets = {dataset.name: place for place, dataset in enumerate(self.plan.datasets)}
        return sorted({(datasets[b.trial.dataset], b.trial.prompt) for b in self.ballots})

    @cached_property
    def raters(self) -> list[str]:
        return sorted({ballot.rater for ballot in self.ballots})

    @cached_property
    def datasets(self) -> list[slice]:
        """Which prompts belong to each data set that has any."""
        owners = [0 if self.pooled else dataset for dataset, _ in self.prompts]
        return [slice(owners.index(d), owners.index(d) + owners.count(d)) for d in dict.fromkeys(owners)]

    @cached_property
    def places(self) -> list[tuple[int, int]]:
        """Prompt and rater of each ballot."""
        datasets = {dataset.name: place for place, dataset in enumerate(self.plan.datasets)}
        prompts = {prompt: place for place, prompt in enumerate(self.prompts)}
        raters = {rater: place for place, rater in enumerate(self.raters)}
        return [(prompts[datasets[b.trial.dataset], b.trial.prompt], raters[b.rater]) for b in self.ballots]

    def table(self, features: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Sums (prompts, raters, features) and counts (prompts, raters) of a vector for each ballot."""
        sums = np.zeros((len(self.prompts), len(self.raters), len(features[0])))
        counts = np.zeros(sums.shape[:2])
        for place, feature in zip(self.places, features, strict=True):
            sums[place] += feature
            counts[place] += 1
        return sums, counts

    def intervals(self, statistic: Statistic, limits: tuple[float, float] = NO_LIMITS) -> list[Interval]:
        """statistic: of how often each prompt and each rater was drawn."""
        factors = [Factor(tuple(part.stop - part.start for part in self.datasets))]
        if len(self.raters) > 1:
            factors.append(Factor((len(self.raters),)))
            drawn = statistic
        else:

            def drawn(prompts: np.ndarray) -> np.ndarray:
                return statistic(prompts, np.ones((len(prompts), 1)))

        return resampled(drawn, factors, self.plan.bootstrap, self.plan.confidence, self.plan.seed, limits)

    def means(
        self, feature: Callable[[Ballot], np.ndarray], limits: tuple[float, float] = (0.0, 1.0)
    ) -> list[Interval]:
        """Of a vector for each ballot: averaged within prompts, then prompts, then data sets."""
        sums, counts = self.table([feature(ballot) for ballot in self.ballots])

        def means(prompts: np.ndarray, raters: np.ndarray) -> np.ndarray:
            return self.average(prompts, np.einsum("br,prf->bpf", raters, sums), raters @ counts.T)

        return self.intervals(means, limits)

    def average(self, prompts: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Prompts as often as they were drawn, then data sets. prompts, counts: (draws, prompts). sums: and features.

        A prompt whose raters were not drawn is left out; where a data set has no other, the draw is undefined.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            known = np.nan_to_num(sums / counts[..., None])
            weights = prompts * (counts > 0)
            parts = [
                np.einsum("bp,bpf->bf", weights[:, part], known[:, part]) / weights[:, part].sum(1, keepdims=True)
                for part in self.datasets
            ]
            return np.mean(parts, axis=0)
