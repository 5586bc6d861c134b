"""From ballots to numbers with intervals: first places, rank distribution, pairwise wins, log-worth, agreement."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sga_kohya.evaluate.plan.plan import Plan
from sga_kohya.evaluate.rate.ballots import Ballot
from sga_kohya.evaluate.rate.panel import Panel
from sga_kohya.evaluate.rate.ranking import krippendorff_alpha, order_agreement, pairwise_wins, rank_shares
from sga_kohya.evaluate.rate.study import passed
from sga_kohya.evaluate.rate.worth import log_worth, pair_counts
from sga_kohya.kit.intervals import Interval


@dataclass(frozen=True)
class Ranked:
    """What one kind of rater says. Rows and columns are in the order of the plan's variants.

    shares: (variants, places), the rank distribution; its first column is the first-place rate. wins: (variants,
    variants), how often the row beats the column, ties half. heat: {dataset: first-place rate of each variant}.
    worth: log-worth by Davidson's model. dimensions: {dimension: first-place rate of each variant}.
    """

    count: int
    shares: list[list[Interval]]
    wins: list[list[Interval]]
    heat: Mapping[str, list[Interval]]
    worth: list[Interval]
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
    everything = Panel(plan, main)

    def table(feature: Callable[[np.ndarray], np.ndarray]) -> list[list[Interval]]:
        flat = everything.means(lambda b: feature(b.by_variant(names)).ravel())
        return [flat[start : start + size] for start in range(0, size * size, size)]

    def firsts(panel: Panel, dimension: str = "overall") -> list[Interval]:
        return panel.means(lambda b: rank_shares(b.by_variant(names, dimension))[:, 0])

    by_dataset = {dataset.name: [b for b in main if b.trial.dataset == dataset.name] for dataset in plan.datasets}
    dimensions = [name for name in main[0].ranks if name != "overall"]
    return Ranked(
        count=len(main),
        shares=table(rank_shares),
        wins=table(pairwise_wins),
        heat={name: firsts(Panel(plan, subset)) for name, subset in by_dataset.items() if subset},
        worth=worth_intervals(everything),
        dimensions={name: firsts(everything, name) for name in dimensions},
    )


def worth_intervals(panel: Panel) -> list[Interval]:
    """Log-worth of each of the plan's variants, mean 0; every ranking counts alike."""
    names = panel.plan.variant_names
    counts = np.array([pair_counts(ballot.by_variant(names)) for ballot in panel.ballots])
    sums, _ = panel.table(list(counts.reshape(len(counts), -1)))

    def worth(prompts: np.ndarray, raters: np.ndarray) -> np.ndarray:
        drawn = np.einsum("bp,br,prf->bf", prompts, raters, sums, optimize=True)
        return log_worth(drawn.reshape(len(drawn), *counts.shape[1:]), len(names))

    return panel.intervals(worth)


@dataclass(frozen=True)
class Reliability:
    """How far the judge can be believed. Agreements are shares of pairs ordered alike, None where nothing was asked.

    positions: first-place rate of each position in the main ballots. control_ties: share of identical pictures ranked
    equal. control_positions: first-place rate of each position there.
    """

    repeat: Interval | None
    reorder: Interval | None
    positions: list[Interval]
    control_ties: Interval | None
    control_positions: list[Interval]


def reliability(plan: Plan, ballots: Sequence[Ballot]) -> Reliability:
    def positions(kind: str) -> list[Interval]:
        chosen = [ballot for ballot in ballots if ballot.kind == kind]
        return (
            Panel(plan, chosen, pooled=kind != "main").means(lambda b: rank_shares(b.ranks["overall"])[:, 0])
            if chosen
            else []
        )

    controls = [
        (ballot, float(len(set(ballot.ranks["overall"])) == 1)) for ballot in ballots if ballot.kind == "control"
    ]
    return Reliability(
        repeat=mean_of(plan, agreements(ballots, "repeat")),
        reorder=mean_of(plan, agreements(ballots, "reorder")),
        positions=positions("main"),
        control_ties=mean_of(plan, controls),
        control_positions=positions("control"),
    )


def agreements(ballots: Sequence[Ballot], kind: str) -> list[tuple[Ballot, float]]:
    """The ballots of a kind, and how far each agrees with the same rater's main ballot on the trial."""
    main = {(ballot.rater, ballot.trial): ballot for ballot in ballots if ballot.kind == "main"}
    found = []
    for ballot in ballots:
        first = main.get((ballot.rater, ballot.trial)) if ballot.kind == kind else None
        if first is not None and sorted(first.order) == sorted(ballot.order):
            agreed = order_agreement(first.by_variant(first.order), ballot.by_variant(first.order))
            if agreed is not None:
                found.append((ballot, agreed))
    return found


def mean_of(plan: Plan, found: Sequence[tuple[Ballot, float]]) -> Interval | None:
    """The mean of a share for each ballot, over all prompts alike; None where there are none."""
    if not found:
        return None
    shares = {id(ballot): np.array([share]) for ballot, share in found}
    return Panel(plan, [ballot for ballot, _ in found], pooled=True).means(lambda b: shares[id(b)])[0]


@dataclass(frozen=True)
class Raters:
    """The human side. kept, excluded: rater ids; excluded ones failed half of their attention items or more.

    alpha: Krippendorff's, ordinal, over trials and variants; None for one rater. consistency: of raters with
    themselves. seconds: median time of a ranking.
    """

    kept: tuple[str, ...]
    excluded: tuple[str, ...]
    alpha: Interval | None
    consistency: Interval | None
    seconds: float


def without_inattentive(plan: Plan, ballots: Sequence[Ballot]) -> tuple[list[Ballot], Raters]:
    """The ballots of those who passed, and what is known of the raters."""
    results: dict[str, list[bool]] = {}
    for ballot in ballots:
        results.setdefault(ballot.rater, [])
        if ballot.kind == "attention":
            results[ballot.rater].append(passed(ballot))
    excluded = {rater for rater, passes in results.items() if passes and sum(passes) <= len(passes) / 2}
    kept = [ballot for ballot in ballots if ballot.rater not in excluded]
    main = [ballot for ballot in kept if ballot.kind == "main"]
    raters = Raters(
        kept=tuple(sorted(results.keys() - excluded)),
        excluded=tuple(sorted(excluded)),
        alpha=alpha_of(plan, main),
        consistency=mean_of(plan, agreements(kept, "repeat")),
        seconds=float(np.median([ballot.seconds for ballot in main])) if main else float("nan"),
    )
    return kept, raters


def alpha_of(plan: Plan, ballots: Sequence[Ballot]) -> Interval | None:
    """Krippendorff's alpha of ranks: a unit is a variant in a trial. None without two raters."""
    panel = Panel(plan, ballots)
    if len(panel.raters) < 2:
        return None
    trials = list(dict.fromkeys(ballot.trial for ballot in ballots))
    given = np.full((len(panel.raters), len(trials), len(plan.variants)), np.nan)
    prompt = np.zeros(len(trials), dtype=int)
    for ballot, (place, rater) in zip(ballots, panel.places, strict=True):
        trial = trials.index(ballot.trial)
        given[rater, trial], prompt[trial] = mid_ranks(ballot.by_variant(plan.variant_names)), place
    ratings = given.reshape(len(panel.raters), -1)
    prompt = prompt.repeat(len(plan.variants))  # of each unit

    def alpha(prompts: np.ndarray, raters: np.ndarray) -> np.ndarray:
        return np.array([[krippendorff_alpha(ratings, r, p[prompt])] for p, r in zip(prompts, raters, strict=True)])

    return panel.intervals(alpha, limits=(-1.0, 1.0))[0]


def mid_ranks(ranks: np.ndarray) -> np.ndarray:
    """The mean place of each tie, so that 1, 1, 2 and 1, 2, 3 are on one scale: 1.5, 1.5, 3."""
    return rank_shares(ranks) @ np.arange(1, len(ranks) + 1)


def judge_human_agreement(plan: Plan, judge: Sequence[Ballot], human: Sequence[Ballot]) -> tuple[Interval, int] | None:
    """Share of pairs that the judge and the raters' mean ranks order alike, and on how many trials. None for none."""
    ours = {ballot.trial: mid_ranks(ballot.by_variant(plan.variant_names)) for ballot in judge if ballot.kind == "main"}
    theirs = [ballot for ballot in human if ballot.kind == "main" and ballot.trial in ours]
    if not theirs:
        return None
    panel = Panel(plan, theirs)
    trials = list(dict.fromkeys(ballot.trial for ballot in theirs))
    sums = np.zeros((len(trials), len(panel.raters), len(plan.variants)))
    counts, prompt = np.zeros(sums.shape[:2]), np.zeros((len(trials), len(panel.prompts)))
    for ballot, (place, rater) in zip(theirs, panel.places, strict=True):
        trial = trials.index(ballot.trial)
        sums[trial, rater] += mid_ranks(ballot.by_variant(plan.variant_names))
        counts[trial, rater] += 1
        prompt[trial, place] = 1
    order = _signs(np.array([ours[trial] for trial in trials]))

    def agreement(prompts: np.ndarray, raters: np.ndarray) -> np.ndarray:
        asked = raters @ counts.T
        # Sums and not means: a trial's pairs have the same order in both. round: so do ties.
        alike = (_signs(np.einsum("br,trv->btv", raters, sums).round(9)) == order).mean(-1) * (asked > 0)
        return panel.average(prompts, (alike @ prompt)[..., None], (asked > 0) @ prompt)

    return panel.intervals(agreement, limits=(0.0, 1.0))[0], len(trials)


def _signs(ranks: np.ndarray) -> np.ndarray:
    """Of each pair of variants, which is before: (..., pairs). ranks: (..., variants)."""
    i, j = np.triu_indices(ranks.shape[-1], 1)
    return np.sign(ranks[..., i] - ranks[..., j])
