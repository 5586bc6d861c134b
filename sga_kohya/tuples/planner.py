"""From groups to tuple steps: whole groups, one set of granularities a step, every epoch new, few sub-batches.

Pure Python and seeded: the same seed and epoch give the same plan in every worker and on every rank.
"""

import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from sga_kohya.config import SgaConfig
from sga_kohya.equations.weights import sub_batch_weight
from sga_kohya.tuples.step import Group, Slice, SubBatch, TupleStep

# (label, present, samples, samples_of_level) -> factor of a sub-batch's mean loss; see weights.sub_batch_weight.
Weight = Callable[[str | None, int, int, int], float]

# Enough to gain what can be gained; the limits keep a plan of 100,000 groups within two seconds.
_EXCHANGES_PER_STEP = 200
_MOST_EXCHANGES = 40_000
_SMALLEST_WINDOW = 8
_MOST_COMPARISONS = 500_000

# Only groups that agree in all three can share a step: granularities (one K a step), datasets (one batch size), and for
# images without a granularity the bucket, so that they make the batches they make without us.
_Kind = tuple[frozenset[str | None], frozenset[int], frozenset[Hashable]]
_UNLABELLED = frozenset({None})


def form_groups(slices: Iterable[tuple[Slice, str | None]]) -> list[Group]:
    """Join slices that share a group name; a slice named None is a group of its own.

    A slice that occurs r times (repeats, several datasets) makes r copies of its group; copy j takes the j-th
    occurrence of each slice that has so many, so that nothing is dropped and nothing is used twice.
    """
    copies: dict[tuple[str, int], list[Slice]] = defaultdict(list)
    seen: dict[tuple[str, str], int] = defaultdict(int)
    alone: list[Group] = []
    for item, name in slices:
        if name is None:
            alone.append((item,))
        else:
            copies[name, seen[name, item.key]].append(item)
            seen[name, item.key] += 1
    return [tuple(members) for members in copies.values()] + alone


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
class Planner:
    """Plans epochs of tuple steps. batch_sizes: of each dataset. groups_per_step: None for the batch size."""

    groups: Sequence[Group]
    batch_sizes: Sequence[int]
    weight: Weight
    groups_per_step: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self._kinds: Mapping[_Kind, list[Group]] = defaultdict(list)
        for group in self.groups:
            labels = granularities(group)
            buckets = frozenset(item.bucket for item in group) if labels == _UNLABELLED else frozenset()
            self._kinds[labels, frozenset(item.dataset for item in group), buckets].append(group)

    def __len__(self) -> int:
        """Tuple steps of an epoch, the same every epoch: full steps and at most one partial step of each kind."""
        return sum(-(-len(groups) // self._size(kind)) for kind, groups in self._kinds.items())

    def epoch(self, number: int) -> list[TupleStep]:
        """The steps of one epoch, in order."""
        rng = random.Random(f"{self.seed}/{number}")
        steps = [
            self._sub_batches(chosen, rng)
            for kind, groups in self._kinds.items()
            for chosen in pack(groups, self._size(kind), rng)
        ]
        rng.shuffle(steps)
        return steps

    def groups_by_k(self) -> dict[int, int]:
        """How many groups have K granularities, largest K first."""
        counts = Counter(len(granularities(group)) for group in self.groups)
        return {k: counts[k] for k in sorted(counts, reverse=True)}

    def metadata(self) -> dict[str, str]:
        """What the data were, for a saved model's header."""
        return {"ss_sga_groups_by_k": ",".join(f"{k}:{count}" for k, count in self.groups_by_k().items())}

    def _size(self, kind: _Kind) -> int:
        batch_size = max(self.batch_sizes[dataset] for dataset in kind[1])
        return batch_size if kind[0] == _UNLABELLED else self.groups_per_step or batch_size

    def _sub_batches(self, groups: Sequence[Group], rng: random.Random) -> TupleStep:
        """Split a step's slices by granularity, dataset and bucket, in random order of presentation."""
        cells: dict[tuple, list[Slice]] = defaultdict(list)
        for group in groups:
            for item in group:
                cells[item.granularity, item.dataset, item.bucket].append(item)
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


def pack(groups: Sequence[Group], size: int, rng: random.Random) -> list[list[Group]]:
    """Partition groups into ceil(len / size) steps of at most size groups, those whose buckets agree together.

    Groups with equal buckets fill steps of their own; the rest is joined greedily and improved by exchanges.
    """
    alike: dict[frozenset, list[Group]] = defaultdict(list)
    for group in rng.sample(groups, len(groups)):
        alike[_buckets(group)].append(group)
    steps = []
    for members in alike.values():
        while len(members) >= size:
            steps.append([members.pop() for _ in range(size)])
    mixed = _join_rest({buckets: members for buckets, members in alike.items() if members}, size, rng)
    _exchange(mixed, rng)
    return steps + mixed


def _join_rest(rest: dict[frozenset, list[Group]], size: int, rng: random.Random) -> list[list[Group]]:
    """Steps of unlike groups: start with the next in line, then again and again take the one that fits best.

    Candidates stand in an order in which those that share buckets are near each other, new each epoch, so that a window
    of them serves where there are too many to look at all.
    """
    cells = sorted({bucket for buckets in rest for bucket in buckets}, key=repr)
    rank = dict(zip(cells, rng.sample(range(len(cells)), len(cells)), strict=True))
    line = deque(sorted(rest, key=lambda buckets: sorted(rank[bucket] for bucket in buckets)))
    window = max(_SMALLEST_WINDOW, _MOST_COMPARISONS // max(len(line), 1))
    steps = []
    while line:
        step: list[Group] = []
        covered: frozenset = frozenset()
        while line and len(step) < size:
            best = min(range(min(len(line), window)), key=lambda i: len(line[i] - covered)) if step else 0
            covered |= line[best]
            step.append(rest[line[best]].pop())
            if not rest[line[best]]:
                del line[best]
        steps.append(step)
    return steps


def _exchange(steps: list[list[Group]], rng: random.Random) -> None:
    """Swap random pairs of groups between steps where that does not add sub-batches, in place.

    Swaps that change nothing are made too: they lead out of dead ends, and let other groups meet.
    """
    if len(steps) < 2:
        return
    counts = [Counter(bucket for group in step for bucket in _buckets(group)) for step in steps]
    for _ in range(min(_EXCHANGES_PER_STEP * len(steps), _MOST_EXCHANGES)):
        here, there = rng.sample(range(len(steps)), 2)
        i, j = rng.randrange(len(steps[here])), rng.randrange(len(steps[there]))
        leaving, coming = _buckets(steps[here][i]), _buckets(steps[there][j])
        gives, takes = leaving - coming, coming - leaving
        gain = _swap_gain(counts[here], gives, takes) + _swap_gain(counts[there], takes, gives)
        if gain >= 0:
            steps[here][i], steps[there][j] = steps[there][j], steps[here][i]
            counts[here].update(takes)
            counts[here].subtract(gives)
            counts[there].update(gives)
            counts[there].subtract(takes)


def _swap_gain(counts: Counter, gives: frozenset, takes: frozenset) -> int:
    """Sub-batches a step saves when it gives up one slice of each bucket in gives for one of each in takes."""
    return sum(counts[bucket] == 1 for bucket in gives) - sum(counts[bucket] == 0 for bucket in takes)


def _buckets(group: Group) -> frozenset:
    return frozenset((item.granularity, item.dataset, item.bucket) for item in group)
