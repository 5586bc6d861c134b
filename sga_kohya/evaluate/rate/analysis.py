"""From ballots to numbers with intervals: first places, rank distribution, pairwise wins, Plackett-Luce, agreement."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from sga_kohya.evaluate.plan.plan import Plan
from sga_kohya.evaluate.rate.ballots import Ballot, Trial
from sga_kohya.evaluate.rate.judge import agreements
from sga_kohya.evaluate.rate.ranking import (
    krippendorff_alpha,
    order_agreement,
    pairwise_wins,
    plackett_luce,
    rank_shares,
)
from sga_kohya.evaluate.rate.study import passed
from sga_kohya.kit.intervals import Interval, intervals, spread

LUCE_RESAMPLES = 200  # each is an iterative fit


@dataclass(frozen=True)
class Ranked:
    """What one kind of rater says. Rows and columns are in the order of the plan's variants.

    shares: (variants, places), the rank distribution; its first column is the first-place rate. wins: (variants,
    variants), how often the row beats the column, ties half. heat: {dataset: first-place rate of each variant}.
    luce: Plackett-Luce log-worth. dimensions: {dimension: first-place rate of each variant}.
    """

    count: int
    shares: list[list[Interval]]
    wins: list[list[Interval]]
    heat: Mapping[str, list[Interval]]
    luce: list[Interval]
    dimensions: Mapping[str, list[Interval]]

    @property
    def first(self) -> list[Interval]:
        return [row[0] for row in self.shares]


def analyse(plan: Plan, ballots: Sequence[Ballot]) -> Ranked | None:
    """Of the main ballots; None when there are none."""
    main = [ballot for ballot in ballots if ballot.kind == "main"]
    if not main:
        return None
    names, size = plan.variant_names, len(plan.variants)

    def table(feature: Callable[[np.ndarray], np.ndarray]) -> list[list[Interval]]:
        flat = _intervals(plan, units(plan, main, lambda b: feature(b.by_variant(names)).ravel()))
        return [flat[start : start + size] for start in range(0, size * size, size)]

    def firsts(subset: Sequence[Ballot], dimension: str = "overall") -> list[Interval]:
        return _intervals(plan, units(plan, subset, lambda b: rank_shares(b.by_variant(names, dimension))[:, 0]))

    by_dataset = {dataset.name: [b for b in main if b.trial.dataset == dataset.name] for dataset in plan.datasets}
    dimensions = [name for name in main[0].ranks if name != "overall"]
    return Ranked(
        count=len(main),
        shares=table(rank_shares),
        wins=table(pairwise_wins),
        heat={name: firsts(subset) for name, subset in by_dataset.items() if subset},
        luce=luce_intervals(plan, main),
        dimensions={name: firsts(main, name) for name in dimensions},
    )


def units(plan: Plan, ballots: Sequence[Ballot], feature: Callable[[Ballot], np.ndarray]) -> list[np.ndarray]:
    """Ballots averaged within prompts. Returns (prompts with ballots, features) for each dataset that has any."""
    found = []
    for dataset in plan.datasets:
        by_prompt: dict[int, list[np.ndarray]] = {}
        for ballot in ballots:
            if ballot.trial.dataset == dataset.name:
                by_prompt.setdefault(ballot.trial.prompt, []).append(feature(ballot))
        if by_prompt:
            found.append(np.array([np.mean(by_prompt[prompt], axis=0) for prompt in sorted(by_prompt)]))
    return found


def _intervals(plan: Plan, found: Sequence[np.ndarray]) -> list[Interval]:
    return intervals(found, plan.bootstrap, plan.confidence, plan.seed)


def luce_intervals(plan: Plan, ballots: Sequence[Ballot]) -> list[Interval]:
    """Plackett-Luce log-worth, resampled as all else: datasets, then prompts within each."""
    generator = np.random.default_rng(plan.seed)
    blocks: dict[str, dict[int, list[np.ndarray]]] = {}
    for ballot in ballots:
        prompts = blocks.setdefault(ballot.trial.dataset, {})
        prompts.setdefault(ballot.trial.prompt, []).append(ballot.by_variant(plan.variant_names))
    nested = [[np.array(rows) for rows in prompts.values()] for prompts in blocks.values()]
    values = plackett_luce(np.concatenate([rows for prompts in nested for rows in prompts]), generator, rounds=20)
    draws = []
    for _ in tqdm(range(LUCE_RESAMPLES), desc="Plackett-Luce", unit="resample", delay=2):
        picked = (nested[place] for place in generator.integers(len(nested), size=len(nested)))
        rows = [prompts[place] for prompts in picked for place in generator.integers(len(prompts), size=len(prompts))]
        draws.append(plackett_luce(np.concatenate(rows), generator))
    return spread(values, np.array(draws), plan.confidence)


@dataclass(frozen=True)
class Reliability:
    """How far the judge can be believed. Agreements are shares of pairs ordered alike, None where nothing was asked.

    positions: first-place rate of each position in the main ballots. control_ties: share of identical pictures ranked
    equal. control_positions: first-place rate of each position there.
    """

    repeat: float | None
    reorder: float | None
    positions: list[float]
    control_ties: float | None
    control_positions: list[float]


def reliability(ballots: Sequence[Ballot]) -> Reliability:
    def mean(values: Sequence[float]) -> float | None:
        return float(np.mean(values)) if values else None

    def positions(kind: str) -> list[float]:
        firsts = [rank_shares(ballot.ranks["overall"])[:, 0] for ballot in ballots if ballot.kind == kind]
        return np.mean(firsts, axis=0).tolist() if firsts else []

    controls = [float(len(set(ballot.ranks["overall"])) == 1) for ballot in ballots if ballot.kind == "control"]
    return Reliability(
        repeat=mean(agreements(ballots, "repeat")),
        reorder=mean(agreements(ballots, "reorder")),
        positions=positions("main"),
        control_ties=mean(controls),
        control_positions=positions("control"),
    )


@dataclass(frozen=True)
class Raters:
    """The human side. kept, excluded: rater ids; excluded ones failed half of their attention items or more.

    alpha: Krippendorff's, ordinal, over trials and variants; NaN for one rater. consistency: of raters with themselves.
    seconds: median time of a ranking.
    """

    kept: tuple[str, ...]
    excluded: tuple[str, ...]
    alpha: float
    consistency: float | None
    seconds: float


def without_inattentive(ballots: Sequence[Ballot]) -> tuple[list[Ballot], Raters]:
    """The ballots of those who passed, and what is known of the raters."""
    results: dict[str, list[bool]] = {}
    for ballot in ballots:
        results.setdefault(ballot.rater, [])
        if ballot.kind == "attention":
            results[ballot.rater].append(passed(ballot))
    excluded = {rater for rater, passes in results.items() if passes and sum(passes) <= len(passes) / 2}
    kept = [ballot for ballot in ballots if ballot.rater not in excluded]
    main = [ballot for ballot in kept if ballot.kind == "main"]
    agreed = agreements(kept, "repeat")
    raters = Raters(
        kept=tuple(sorted(results.keys() - excluded)),
        excluded=tuple(sorted(excluded)),
        alpha=alpha_of(main),
        consistency=float(np.mean(agreed)) if agreed else None,
        seconds=float(np.median([ballot.seconds for ballot in main])) if main else float("nan"),
    )
    return kept, raters


def alpha_of(ballots: Sequence[Ballot]) -> float:
    """Krippendorff's alpha of ranks: a unit is a variant in a trial."""
    raters = sorted({ballot.rater for ballot in ballots})
    names = sorted(ballots[0].order) if ballots else []
    places = {trial: number for number, trial in enumerate(dict.fromkeys(ballot.trial for ballot in ballots))}
    ratings = np.full((len(raters), len(places), len(names)), np.nan)
    for ballot in ballots:
        # The mean place of a tie, so that 1, 1, 2 and 1, 2, 3 are on one scale.
        ranks = rank_shares(ballot.by_variant(names)) @ np.arange(1, len(names) + 1)
        ratings[raters.index(ballot.rater), places[ballot.trial]] = ranks
    return krippendorff_alpha(ratings.reshape(len(raters), -1)) if len(raters) > 1 else float("nan")


def judge_human_agreement(judge: Sequence[Ballot], human: Sequence[Ballot]) -> tuple[float, int] | None:
    """Share of pairs that the judge and the raters' mean ranks order alike, and on how many trials. None for none."""

    def mean_ranks(ballots: Sequence[Ballot]) -> dict[Trial, np.ndarray]:
        found: dict[Trial, list[np.ndarray]] = {}
        for ballot in ballots:
            if ballot.kind == "main":
                found.setdefault(ballot.trial, []).append(ballot.by_variant(sorted(ballot.order)))
        return {trial: np.mean(rows, axis=0) for trial, rows in found.items()}

    ours, theirs = mean_ranks(judge), mean_ranks(human)
    shared = ours.keys() & theirs.keys()
    values = [order_agreement(ours[trial], theirs[trial]) for trial in shared]
    return (float(np.mean(values)), len(values)) if values else None
