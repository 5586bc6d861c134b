"""From groups to tuple steps: whole groups, one set of granularities a step, every epoch new, few sub-batches.

Seeded by Python's own generator: the same seed and epoch give the same plan in every worker and on every rank.
"""

import random
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import islice
from operator import attrgetter
from typing import overload

import numpy as np
from numpy.typing import NDArray

from sga_kohya.config import SgaConfig
from sga_kohya.equations.weights import sub_batch_weight
from sga_kohya.tuples.step import Group, Slice, SubBatch, TupleStep

# (label, present, samples, samples_of_level) -> factor of a sub-batch's mean loss; see weights.sub_batch_weight.
Weight = Callable[[str | None, int, int, int], float]

VERSION = 2
"""Of the plans: another number where the same groups and seed give another plan, so that no state resumes into it."""

# Enough to gain what can be gained; the limits keep a plan of 1,000,000 groups within ten seconds.
_EXCHANGES_PER_STEP = 200
_MOST_EXCHANGES = 40_000
_SMALLEST_WINDOW = 8
_MOST_COMPARISONS = 500_000

# Only groups that agree in all three can share a step: granularities (one K a step), datasets (one batch size), and for
# images without a granularity the bucket, so that they make the batches they make without us.
_Kind = tuple[frozenset[str | None], frozenset[int], frozenset[Hashable]]
_UNLABELLED = frozenset({None})
_FILLING = frozenset({-1})

_Cells = frozenset[int]
"""Numbers of the cells that a group's slices fall into. A cell: one granularity, dataset and bucket."""

_cell = attrgetter("granularity", "dataset", "bucket")


def form_groups(slices: Iterable[tuple[Slice, str | None]]) -> list[Group]:
    """Join slices that share a group name; a slice named None is a group of its own.

    A slice that occurs r times (repeats, several datasets) makes r copies of its group; copy j takes the j-th
    occurrence of each slice that has so many, so that nothing is dropped and nothing is used twice.
    """
    named: dict[str, list[Slice]] = defaultdict(list)
    alone: list[Group] = []
    for item, name in slices:
        if name is None:
            alone.append((item,))
        else:
            named[name].append(item)
    return [copy for members in named.values() for copy in _copies(members)] + alone


def _copies(members: Iterable[Slice]) -> Iterator[Group]:
    copies: dict[int, list[Slice]] = defaultdict(list)
    seen: dict[str, int] = {}
    for item in members:
        occurrence = seen.get(item.key, 0)
        seen[item.key] = occurrence + 1
        copies[occurrence].append(item)
    return map(tuple, copies.values())


def eq_6(config: SgaConfig) -> Weight:
    """The weights that make a step's accumulated gradient that of Eq. 6, or of the reduction the settings ask for."""
    return partial(_weight, config)


def _weight(config: SgaConfig, label: str | None, present: int, samples: int, samples_of_level: int) -> float:
    weight, levels = config.weight(label), len(config.granularities)
    return sub_batch_weight(weight, present, levels, samples, samples_of_level, config.tuple_reduction)


def granularities(group: Group) -> frozenset[str | None]:
    """The set whose size is K."""
    return frozenset(item.granularity for item in group)


@dataclass
class _Pool:
    """Groups that can share a step. cells: of each group in turn, ascending. lengths: how many of them each has."""

    groups: list[Group] = field(default_factory=list)
    cells: array = field(default_factory=partial(array, "i"))
    lengths: array = field(default_factory=partial(array, "i"))

    def add(self, group: Group, cells: set[int]) -> None:
        self.groups.append(group)
        self.cells.extend(sorted(cells))
        self.lengths.append(len(cells))

    def table(self) -> NDArray[np.int32]:
        """The cells of each group, (groups, most cells of one), rows filled up with -1."""
        filled = np.arange(max(self.lengths)) < np.array(self.lengths)[:, None]
        table = np.full(filled.shape, -1, np.int32)
        table[filled] = self.cells
        return table


@dataclass
class Planner:
    """Plans epochs of tuple steps. batch_sizes: of each dataset. groups_per_step: None for the batch size."""

    groups: Sequence[Group]
    batch_sizes: Sequence[int]
    weight: Weight
    groups_per_step: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self._pools: dict[_Kind, _Pool] = {}
        numbers: dict[tuple, int] = {}
        for group in self.groups:
            cells = {numbers.setdefault(cell, len(numbers)) for cell in map(_cell, group)}
            self._pools.setdefault(_kind(group), _Pool()).add(group, cells)

    def __len__(self) -> int:
        """Tuple steps of an epoch, the same every epoch: full steps and at most one partial step of each kind."""
        return sum(-(-len(pool.groups) // self._size(kind)) for kind, pool in self._pools.items())

    def epoch(self, number: int) -> "Epoch":
        """The steps of one epoch, in order."""
        return Epoch(self, number)

    def deal(self, number: int) -> list[list[Group]]:
        """The groups of each step of an epoch, in order."""
        rng = random.Random(f"{self.seed}/{number}")
        steps = [
            [pool.groups[index] for index in chosen]
            for kind, pool in self._pools.items()
            for chosen in pack(pool.table(), self._size(kind), rng)
        ]
        rng.shuffle(steps)
        return steps

    def groups_by_k(self) -> dict[int, int]:
        """How many groups have K granularities, largest K first."""
        counts: Counter[int] = Counter()
        for (labels, _, _), pool in self._pools.items():
            counts[len(labels)] += len(pool.groups)
        return {k: counts[k] for k in sorted(counts, reverse=True)}

    def metadata(self) -> dict[str, str]:
        """What the data were, for a saved model's header."""
        return {"ss_sga_groups_by_k": ",".join(f"{k}:{count}" for k, count in self.groups_by_k().items())}

    def _size(self, kind: _Kind) -> int:
        batch_size = max(self.batch_sizes[dataset] for dataset in kind[1])
        return batch_size if kind[0] == _UNLABELLED else self.groups_per_step or batch_size

    def sub_batches(self, groups: Sequence[Group], rng: random.Random) -> TupleStep:
        """Split a step's slices by granularity, dataset and bucket, in random order of presentation."""
        cells: dict[tuple, list[Slice]] = defaultdict(list)
        for group in groups:
            for item in group:
                cells[_cell(item)].append(item)
        of_level: dict[str | None, int] = defaultdict(int)
        for (label, _, _), members in cells.items():
            of_level[label] += len(members)
        parts = [part for members in cells.values() for part in self._chunks(members)]
        rng.shuffle(parts)
        return tuple(
            SubBatch(
                dataset=part[0].dataset,
                keys=tuple(item.key for item in part),
                granularities=tuple(item.granularity for item in part),
                weight=self.weight(part[0].granularity, len(of_level), len(part), of_level[part[0].granularity]),
                last=index == len(parts) - 1,
                groups=len(groups) if index == len(parts) - 1 else 0,
            )
            for index, part in enumerate(parts)
        )

    def _chunks(self, members: list[Slice]) -> list[list[Slice]]:
        size = self.batch_sizes[members[0].dataset]
        return [members[start : start + size] for start in range(0, len(members), size)]


class Epoch(Sequence[TupleStep]):
    """The tuple steps of one epoch. Who meets whom is settled; a step's sub-batches are made when it is asked for.

    So an epoch needs the memory of a reference to each group. A step is the same whichever were asked for before it.
    """

    def __init__(self, planner: Planner, number: int):
        self._planner, self._place = planner, f"{planner.seed}/{number}"
        self._steps = planner.deal(number)

    def __len__(self) -> int:
        return len(self._steps)

    @overload
    def __getitem__(self, index: int) -> TupleStep: ...

    @overload
    def __getitem__(self, index: slice) -> list[TupleStep]: ...

    def __getitem__(self, index: int | slice) -> TupleStep | list[TupleStep]:
        found = range(len(self))[index]
        return self._step(found) if isinstance(found, int) else [self._step(position) for position in found]

    def _step(self, position: int) -> TupleStep:
        return self._planner.sub_batches(self._steps[position], random.Random(f"{self._place}/{position}"))


def _kind(group: Group) -> _Kind:
    labels = granularities(group)
    buckets = frozenset(item.bucket for item in group) if labels == _UNLABELLED else frozenset()
    return labels, frozenset(item.dataset for item in group), buckets


def pack(cells: NDArray[np.int32], size: int, rng: random.Random) -> list[list[int]]:
    """Partition groups into ceil(len / size) steps of at most size groups, those whose cells agree together.

    cells: of each group, rows filled up with -1. Returns the numbers of each step's groups. Groups with equal cells
    fill steps of their own; the rest is joined greedily and improved by exchanges.
    """
    steps: list[list[int]] = []
    rest: list[int] = []
    for alike in _in_line(cells, rng):
        whole = len(alike) - len(alike) % size
        steps += (alike[start : start + size] for start in range(0, whole, size))
        rest += alike[whole:]
    cells_of = partial(_cells_of, cells)
    mixed = _join(rest, cells_of, size)
    _exchange(mixed, cells_of, rng)
    return steps + mixed


def _cells_of(cells: NDArray[np.int32], group: int) -> _Cells:
    return frozenset(cells[group].tolist()) - _FILLING


def _in_line(cells: NDArray[np.int32], rng: random.Random) -> Iterator[list[int]]:
    """Lists of groups with equal cells, in an order in which those that share cells are near each other.

    Order and lists are new each epoch.
    """
    count = int(cells.max()) + 1
    rank = np.array([*rng.sample(range(count), count), count])  # the last is that of -1
    dealt = np.array(rng.sample(range(len(cells)), len(cells)))
    ranks = np.sort(rank[cells[dealt]], axis=1)
    order = np.lexsort(ranks.T[::-1])
    ranks = ranks[order]
    ends = np.flatnonzero((ranks[1:] != ranks[:-1]).any(axis=1)) + 1
    line, start = dealt[order].tolist(), 0
    for end in [*ends.tolist(), len(line)]:
        yield line[start:end]
        start = end


def _join(line: Sequence[int], cells_of: Callable[[int], _Cells], size: int) -> list[list[int]]:
    """Steps of unlike groups: start with the next in line, then again and again take the one that fits best.

    Where there are too many to look at all, only those next in line are looked at.
    """
    ahead = ((group, cells_of(group)) for group in line)
    window = list(islice(ahead, max(_SMALLEST_WINDOW, _MOST_COMPARISONS // max(len(line), 1))))
    steps = []
    while window:
        step: list[int] = []
        covered: _Cells = frozenset()
        while window and len(step) < size:
            added = [len(cells - covered) for _, cells in window] if step else [0]
            group, cells = window.pop(added.index(min(added)))
            step.append(group)
            covered |= cells
            window += islice(ahead, 1)
        steps.append(step)
    return steps


def _exchange(steps: list[list[int]], cells_of: Callable[[int], _Cells], rng: random.Random) -> None:
    """Swap random pairs of groups between steps where that does not add sub-batches, in place.

    Swaps that change nothing are made too: they lead out of dead ends, and let other groups meet.
    """
    if len(steps) < 2:
        return

    @cache
    def counts(step: int) -> Counter[int]:
        return Counter(cell for group in steps[step] for cell in cells_of(group))

    for _ in range(min(_EXCHANGES_PER_STEP * len(steps), _MOST_EXCHANGES)):
        here, there = rng.sample(range(len(steps)), 2)
        i, j = rng.randrange(len(steps[here])), rng.randrange(len(steps[there]))
        leaving, coming = cells_of(steps[here][i]), cells_of(steps[there][j])
        gives, takes = leaving - coming, coming - leaving
        gain = _swap_gain(counts(here), gives, takes) + _swap_gain(counts(there), takes, gives)
        if gain >= 0:
            steps[here][i], steps[there][j] = steps[there][j], steps[here][i]
            counts(here).update(takes)
            counts(here).subtract(gives)
            counts(there).update(gives)
            counts(there).subtract(takes)


def _swap_gain(counts: Counter[int], gives: _Cells, takes: _Cells) -> int:
    """Sub-batches a step saves when it gives up one slice of each cell in gives for one of each in takes."""
    return sum(counts[cell] == 1 for cell in gives) - sum(counts[cell] == 0 for cell in takes)
