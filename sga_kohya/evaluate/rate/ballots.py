"""What judges and raters are asked, and their answers: trials, balanced orders, ballots."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.plan.plan import Plan

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Trial:
    """The images that all variants made of one prompt with one seed. prompt counts from 0."""

    dataset: str
    prompt: int
    seed: int


@dataclass(frozen=True)
class Ballot:
    """One answer. order: what was shown at A, B, …; ranks: {dimension: rank of each place}, 1 the best.

    kind: main; repeat, the same question again; reorder, the same pictures in another order; control, one picture in
    all places; attention, one picture spoilt more and more. seconds: taken by a human.
    """

    rater: str
    kind: str
    trial: Trial
    order: tuple[str, ...]
    ranks: Mapping[str, tuple[int, ...]]
    seconds: float | None = None

    def by_variant(self, names: Sequence[str], dimension: str = "overall") -> np.ndarray:
        """The ranks in the order of `names`, (variants,)."""
        return np.array([self.ranks[dimension][self.order.index(name)] for name in names])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Ballot":
        return cls(
            values["rater"],
            values["kind"],
            Trial(**values["trial"]),
            tuple(values["order"]),
            {name: tuple(ranks) for name, ranks in values["ranks"].items()},
            values.get("seconds"),
        )


def is_ballot(values: Mapping[str, Any]) -> bool:
    """Whether a row that was read can be a Ballot: every field there and of its kind, a rank for each place."""
    try:
        ballot = Ballot.from_json(values)
    except (KeyError, TypeError, AttributeError):
        return False
    words = (ballot.rater, ballot.kind, ballot.trial.dataset, *ballot.order, *ballot.ranks)
    ranks = [rank for given in ballot.ranks.values() for rank in given]
    return (
        all(isinstance(word, str) for word in words)
        and all(type(number) is int for number in (ballot.trial.prompt, ballot.trial.seed, *ranks))
        and all(1 <= rank <= len(ballot.order) for rank in ranks)
        and all(len(given) == len(ballot.order) for given in ballot.ranks.values())
        and "overall" in ballot.ranks
        and (ballot.kind != "attention" or "spoilt-0" in ballot.order)
        and (ballot.seconds is None or type(ballot.seconds) in (int, float) and math.isfinite(ballot.seconds))
    )


def all_trials(plan: Plan) -> list[Trial]:
    return [
        Trial(dataset.name, prompt, seed)
        for dataset in plan.datasets
        for prompt in range(len(dataset.prompts))
        for seed in plan.seeds
    ]


def williams_square(size: int) -> list[tuple[int, ...]]:
    """Orders in which everyone stands equally often in each place and equally often right after each other one.

    Williams, Australian Journal of Scientific Research A 2 (1949) 149. `size` rows if even, twice as many if odd.
    """
    first = [0]
    for step in range(1, size):
        first.append((first[-1] + step * (1 if step % 2 else -1)) % size)
    rows = [tuple((place + shift) % size for place in first) for shift in range(size)]
    return rows if size % 2 == 0 else rows + [row[::-1] for row in rows]


def balanced_orders(names: Sequence[str], count: int, generator: np.random.Generator) -> list[tuple[str, ...]]:
    """`count` orders that run through the Williams square, the names dealt to its numbers at random.

    It is taken by halves where it has two, the rows of each at random: every `len(names)` orders in a row hold everyone
    once in each place, so that wherever it ends no one was anywhere more than once more often than another. How often
    one stood right after another differs by 1 at most, by 2 for an odd number of names, whose halves mirror each other.
    """
    size = len(names)
    square = williams_square(size)
    dealt = [names[number] for number in generator.permutation(size)]
    rows: list[int] = []
    while len(rows) < count:
        for half in generator.permutation(len(square) // size):
            rows += (half * size + generator.permutation(size)).tolist()
    return [tuple(dealt[number] for number in square[row]) for row in rows[:count]]


def moved(order: Sequence[str]) -> tuple[str, ...]:
    """The same in an order in which nothing stands where it stood."""
    return (*order[1:], order[0])


def dense(ranks: Sequence[int]) -> tuple[int, ...]:
    """The same ranking in ranks without gaps: 1, 1, 4 becomes 1, 1, 2."""
    return tuple((np.unique(ranks, return_inverse=True)[1] + 1).tolist())


def refuse_foreign(plan: Plan, ballots: Sequence[Ballot], path: Path) -> None:
    """Raises SgaError when ballots do not fit the plan they are read for."""
    trials, names = set(all_trials(plan)), sorted(plan.variant_names)
    for ballot in ballots:
        if ballot.trial not in trials or (ballot.kind == "main" and sorted(ballot.order) != names):
            raise SgaError(
                f"{path} holds answers to another plan ({ballot.trial}): rename the folder it is in, or change `out` "
                "in the plan"
            )
