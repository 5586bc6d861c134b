"""From groups to tuple steps: whole groups, one set of granularities a step, every epoch new, few sub-batches.

Seeded by Python's own generator: the same seed and epoch give the same plan in every worker and on every rank.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import overload

import numpy as np
from numpy.typing import NDArray

from sga_kohya.config import SgaConfig
from sga_kohya.equations.weights import sub_batch_weight
from sga_kohya.tuples.groups import Cell, Groups
from sga_kohya.tuples.packing import pack, random_order, runs
from sga_kohya.tuples.step import SubBatch, TupleStep

# (label, present, samples, samples_of_level) -> factor of a sub-batch's mean loss; see weights.sub_batch_weight.
Weight = Callable[[str | None, int, int, int], float]

VERSION = 4
"""Of the plans: another number where the same groups and seed give another plan, so that no state resumes into it."""

# Only groups that agree in it can share a step: granularities (one K a step) with their datasets' batch sizes, and for
# images without a granularity dataset and bucket, so that they make the batches they make without us.
_Fact = tuple[str | None, int, Hashable]
_Kind = frozenset[_Fact]
_UNLABELLED = frozenset({None})


def eq_6(config: SgaConfig) -> Weight:
    """The weights that make a step's accumulated gradient that of Eq. 6, or of the reduction the settings ask for."""
    return partial(_weight, config)


def _weight(config: SgaConfig, label: str | None, present: int, samples: int, samples_of_level: int) -> float:
    weight, levels = config.weight(label), len(config.granularities)
    return sub_batch_weight(weight, present, levels, samples, samples_of_level, config.tuple_reduction)


@dataclass
class _Pool:
    """Groups that can share a step. numbers: theirs, ascending. cells: of each, see Groups.table."""

    numbers: NDArray[np.int32]
    cells: NDArray[np.int32]

    def deal(self, size: int, rng: random.Random) -> NDArray[np.int32]:
        """Their numbers by steps, (steps, size), filled up with -1."""
        return np.append(self.numbers, np.int32(-1))[pack(self.cells, size, rng)]


@dataclass
class Planner:
    """Plans epochs of tuple steps. batch_sizes: of each dataset. groups_per_step: None for the batch size."""

    groups: Groups
    batch_sizes: Sequence[int]
    weight: Weight
    groups_per_step: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self._pools = _pools(self.groups, self.batch_sizes)

    def __len__(self) -> int:
        """Tuple steps of an epoch, the same every epoch: as few as hold the groups of each kind."""
        return sum(-(-len(pool.numbers) // self._size(kind)) for kind, pool in self._pools.items())

    def epoch(self, number: int) -> "Epoch":
        """The steps of one epoch, in order."""
        return Epoch(self, number)

    def deal(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Who meets whom in an epoch: groups by their numbers, step after step, and where each step ends."""
        rng = random.Random(f"{self.seed}/{number}")
        dealt = [pool.deal(self._size(kind), rng) for kind, pool in self._pools.items()]
        width = max((steps.shape[1] for steps in dealt), default=1)
        empty = np.empty((0, width), np.int32)
        wide = [np.pad(steps, ((0, 0), (0, width - steps.shape[1])), constant_values=-1) for steps in dealt]
        steps = np.concatenate([empty, *wide])
        steps = steps[random_order(len(steps), rng)]
        return steps[steps >= 0], np.cumsum((steps >= 0).sum(axis=1))

    def groups_by_labels(self) -> dict[frozenset[str | None], int]:
        """How many groups have exactly these granularities."""
        counts: Counter[frozenset[str | None]] = Counter()
        for kind, pool in self._pools.items():
            counts[_labels(kind)] += len(pool.numbers)
        return counts

    def groups_by_k(self) -> dict[int, int]:
        """How many groups have K granularities, largest K first."""
        counts: Counter[int] = Counter()
        for labels, count in self.groups_by_labels().items():
            counts[len(labels)] += count
        return {k: counts[k] for k in sorted(counts, reverse=True)}

    def metadata(self) -> dict[str, str]:
        """What the data were, for a saved model's header."""
        return {"ss_sga_groups_by_k": ",".join(f"{k}:{count}" for k, count in self.groups_by_k().items())}

    def small(self) -> int:
        """Steps of less than half the groups that fit: those of kinds that have no more."""
        return sum(2 * len(pool.numbers) < self._size(kind) for kind, pool in self._pools.items())

    def _size(self, kind: _Kind) -> int:
        batch_size = max(batch_size for _, batch_size, _ in kind)
        return batch_size if _labels(kind) == _UNLABELLED else self.groups_per_step or batch_size

    def sub_batches(self, numbers: Sequence[int], rng: random.Random) -> TupleStep:
        """Split the slices of a step's groups by granularity, dataset and bucket, in random order of presentation."""
        cells: dict[Cell, list[str]] = defaultdict(list)
        for number in numbers:
            for cell, key in self.groups.members(number):
                cells[cell].append(key)
        of_level: dict[str | None, int] = defaultdict(int)
        for cell, keys in cells.items():
            of_level[cell.granularity] += len(keys)
        parts = [(cell, part) for cell, keys in cells.items() for part in self._chunks(cell, keys)]
        rng.shuffle(parts)
        return tuple(
            SubBatch(
                dataset=cell.dataset,
                keys=tuple(part),
                granularities=(cell.granularity,) * len(part),
                weight=self.weight(cell.granularity, len(of_level), len(part), of_level[cell.granularity]),
                last=index == len(parts) - 1,
                groups=len(numbers) if index == len(parts) - 1 else 0,
            )
            for index, (cell, part) in enumerate(parts)
        )

    def _chunks(self, cell: Cell, keys: list[str]) -> Iterable[list[str]]:
        size = self.batch_sizes[cell.dataset]
        return (keys[start : start + size] for start in range(0, len(keys), size))


class Epoch(Sequence[TupleStep]):
    """The tuple steps of one epoch. Who meets whom is settled; a step's sub-batches are made when it is asked for.

    So an epoch needs four bytes a group. A step is the same whichever were asked for before it.
    """

    def __init__(self, planner: Planner, number: int):
        self._planner, self._place = planner, f"{planner.seed}/{number}"
        self._groups, self._ends = planner.deal(number)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> TupleStep: ...

    @overload
    def __getitem__(self, index: slice) -> list[TupleStep]: ...

    def __getitem__(self, index: int | slice) -> TupleStep | list[TupleStep]:
        found = range(len(self))[index]
        return self._step(found) if isinstance(found, int) else [self._step(position) for position in found]

    def sub_batches(self) -> Counter[int]:
        """How many each dataset has, without making them."""
        cell, counts = self._in_steps
        dataset = np.array([cell.dataset for cell in self._planner.groups.cells], np.int64)[cell]
        parts = -(-counts // np.array(self._planner.batch_sizes)[dataset])
        return Counter(dict(enumerate(np.bincount(dataset, parts).astype(int).tolist())))

    def largest(self) -> dict[Cell, int]:
        """How many slices the largest sub-batch of each cell has, without making it."""
        cells, sizes = self._planner.groups.cells, self._planner.batch_sizes
        most = np.zeros(len(cells), np.int64)
        np.maximum.at(most, *self._in_steps)
        return {cell: min(count, sizes[cell.dataset]) for cell, count in zip(cells, most.tolist(), strict=True)}

    @cached_property
    def _in_steps(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of each cell of each step: its number, and how many slices it has there."""
        groups = self._planner.groups
        step = np.empty(len(groups), np.int64)
        step[self._groups] = np.repeat(np.arange(len(self)), np.diff(self._ends, prepend=0))
        of_slice = np.repeat(step, np.diff(groups.ends, prepend=0))
        place, counts = np.unique(of_slice * len(groups.cells) + groups.cell, return_counts=True)
        return place % max(len(groups.cells), 1), counts

    def _step(self, position: int) -> TupleStep:
        groups = self._groups[self._ends[position - 1] if position else 0 : self._ends[position]]
        return self._planner.sub_batches(groups.tolist(), random.Random(f"{self._place}/{position}"))


def _pools(groups: Groups, batch_sizes: Sequence[int]) -> dict[_Kind, _Pool]:
    """The groups of each kind, in the order of their first."""
    table = groups.table()
    facts: dict[_Fact, int] = {}
    numbers = [facts.setdefault(_fact(cell, batch_sizes), len(facts)) for cell in groups.cells]
    if not len(groups):
        return {}
    order, ends = runs(np.sort(np.array([*numbers, -1], np.int32)[table], axis=1))
    found: dict[_Kind, list[NDArray[np.int64]]] = {}
    for alike in np.split(order, ends[:-1]):
        kind = frozenset(_fact(cell, batch_sizes) for cell, _ in groups.members(int(alike[0])))
        found.setdefault(kind, []).append(alike)
    pools = {kind: np.sort(np.concatenate(parts)).astype(np.int32) for kind, parts in found.items()}
    by_first = sorted(pools.items(), key=lambda pool: pool[1][0])
    return {kind: _Pool(members, _narrow(table[members])) for kind, members in by_first}


def _narrow(table: NDArray[np.int32]) -> NDArray[np.int32]:
    """Without the columns that only fill up."""
    return np.ascontiguousarray(table[:, (table >= 0).any(axis=0)])


def _fact(cell: Cell, batch_sizes: Sequence[int]) -> _Fact:
    alone = (cell.dataset, cell.bucket) if cell.granularity is None else None
    return cell.granularity, batch_sizes[cell.dataset], alone


def _labels(kind: _Kind) -> frozenset[str | None]:
    return frozenset(label for label, _, _ in kind)
