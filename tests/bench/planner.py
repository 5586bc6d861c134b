"""Sub-batches, time and memory of the tuple planner, beside plain bucketing, random grouping and a lower bound.

    python tests/bench/planner.py [--groups 1000000] [--curve]

300 groups with a realistic mix: K = 3 for about 70 %, five macro, four meso and three micro sizes. Also how often two
groups meet again over 20 epochs; CPU seconds for 100,000 such groups, and for --groups groups of three slices in any of
400 buckets a level, with the peak size of this process. --curve (minutes): what more exchanges would gain in
sub-batches, and cost in groups that meet again and again.
"""

import argparse
import random
import resource
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import accumulate, combinations

from sga_kohya.tuples import packing
from sga_kohya.tuples.groups import form_groups, granularities
from sga_kohya.tuples.planner import Planner
from sga_kohya.tuples.step import Group, Slice

SIZES = {"macro": [0.15, 0.45, 0.15, 0.2, 0.05], "meso": [0.35, 0.35, 0.2, 0.1], "micro": [0.7, 0.2, 0.1]}
KINDS = [tuple(SIZES)] * 7 + [("macro", "meso"), ("macro", "micro"), ("macro",)]
SEEDS = 5
EPOCHS = 20
BUCKETS = 400
BATCH_SIZES = (2, 4, 8)


def realistic_groups(count: int, seed: int) -> list[Group]:
    """Groups whose slices fall into buckets by the shares of SIZES."""
    rng = random.Random(seed)
    return form_groups(
        (Slice(0, f"{number}/{label}", label, rng.choices(range(len(SIZES[label])), SIZES[label])[0]), str(number))
        for number in range(count)
        for label in rng.choice(KINDS)
    )


def varied_groups(count: int) -> list[Group]:
    """Groups of a slice of each level, in any of BUCKETS buckets."""
    rng = random.Random(0)
    return form_groups(
        (Slice(0, f"{number}/{label}", label, rng.randrange(BUCKETS)), str(number))
        for number in range(count)
        for label in SIZES
    )


def bucketing(groups: list[Group], batch_size: int) -> int:
    """Batches that plain aspect-ratio bucketing makes of the same slices."""
    counts = Counter((item.granularity, item.bucket) for group in groups for item in group)
    return sum(-(-count // batch_size) for count in counts.values())


def lower_bound(groups: Sequence[Group], batch_size: int) -> int:
    """Sub-batches that no plan of as few steps as hold these groups can do without; none need reach it.

    groups: of one dataset, with at most one slice of a granularity each.
    """
    kinds: dict[frozenset, list[dict]] = defaultdict(list)
    for group in groups:
        kinds[granularities(group)].append({item.granularity: item.bucket for item in group})
    return sum(_lower_bound(sorted(labels), members, batch_size) for labels, members in kinds.items())


def _lower_bound(labels: Sequence[str], groups: Sequence[dict], size: int) -> int:
    """The larger of two: what each bucket needs by itself, and what steps need that cannot be of one bucket a level.

    A step has a sub-batch for each of the K levels, and another for each level in which its groups do not all agree.
    Steps that agree in j levels or more each have their groups from one combination of buckets of one set of j levels.
    """

    def alike(number: int) -> list[int]:
        """How many groups each combination has, of all sets of so many levels."""
        sets = combinations(labels, number)
        return [count for of in sets for count in Counter(tuple(g[label] for label in of) for g in groups).values()]

    steps, empty = -(-len(groups) // size), -len(groups) % size
    alone = sum(-(-count // size) for count in alike(1))
    agreeing = (min(steps, _agreeing(alike(number), size, empty)) for number in range(1, len(labels) + 1))
    return max(alone, 2 * len(labels) * steps - sum(agreeing))


def _agreeing(counts: Sequence[int], size: int, empty: int) -> int:
    """At most so many steps of groups that count together: full ones, then those that lack least."""
    lacking = sorted(size - count % size for count in counts if count % size)
    return sum(count // size for count in counts) + sum(total <= empty for total in accumulate(lacking))


def at_random(groups: list[Group], batch_size: int, seed: int) -> int:
    """Sub-batches when groups of equal granularities are joined with no regard to buckets."""
    rng, kinds = random.Random(seed), {}
    for group in rng.sample(groups, len(groups)):
        kinds.setdefault(granularities(group), []).append(group)
    chunks = [g[i : i + batch_size] for g in kinds.values() for i in range(0, len(g), batch_size)]
    return sum(len({(item.granularity, item.bucket) for group in chunk for item in group}) for chunk in chunks)


def planner(groups: list[Group], batch_size: int, seed: int = 0) -> Planner:
    return Planner(groups, [batch_size], lambda *_: 1.0, seed=seed)


def sub_batches(groups: list[Group], batch_size: int, seed: int) -> int:
    return sum(map(len, planner(groups, batch_size, seed).epoch(0)))


def meetings(groups: list[Group], batch_size: int) -> tuple[float, float]:
    """Partners a group has over EPOCHS epochs, and the share of pairs that meet in more than half of these."""
    met: Counter = Counter()
    made = planner(groups, batch_size)
    for epoch in range(EPOCHS):
        for step in made.epoch(epoch):
            met.update(combinations(sorted({key.split("/")[0] for part in step for key in part.keys}), 2))
    return 2 * len(met) / len(groups), sum(count > EPOCHS / 2 for count in met.values()) / len(met)


def ratios() -> None:
    print("batch   random   ours   bound   of plain bucketing's batches; pairs over 20 epochs (means of 5 data sets)")
    data = [realistic_groups(300, seed) for seed in range(SEEDS)]
    for batch_size in BATCH_SIZES:
        plain = [bucketing(groups, batch_size) for groups in data]
        rows = (
            [at_random(groups, batch_size, seed) for seed, groups in enumerate(data)],
            [sub_batches(groups, batch_size, seed) for seed, groups in enumerate(data)],
            [lower_bound(groups, batch_size) for groups in data],
        )
        drawn, ours, bound = (sum(a / b for a, b in zip(row, plain, strict=True)) / SEEDS for row in rows)
        print(f"{batch_size:>5}   {drawn:>6.3f}  {ours:>5.3f}   {bound:>5.3f}   {_met(data, batch_size)}")


def _met(data: list[list[Group]], batch_size: int) -> str:
    partners, often = zip(*(meetings(groups, batch_size) for groups in data), strict=True)
    return (
        f"{sum(partners) / len(data):.0f} partners a group, {sum(often) / len(data):.1%} of pairs that meet do so in "
        "more than half of the epochs"
    )


def curve() -> None:
    """Where more exchanges lead."""
    packing._MOST_COMPARED = 10**12
    data = [realistic_groups(300, seed) for seed in range(SEEDS)]
    for batch_size in BATCH_SIZES:
        plain = [bucketing(groups, batch_size) for groups in data]
        for rounds in (0, 15, 30, 50, 200, 1000):
            packing._ROUNDS = rounds
            ours = [sub_batches(g, batch_size, seed) / n for seed, (g, n) in enumerate(zip(data, plain, strict=True))]
            said = f"batch {batch_size}, {rounds:>4} rounds of exchanges: {sum(ours) / SEEDS:.3f}"
            print(f"{said}, {_met(data, batch_size)}", flush=True)


def large(groups: list[Group], batch_size: int, what: str) -> None:
    before, start = peak(), time.process_time()
    steps = planner(groups, batch_size).epoch(0)
    planned = time.process_time()
    parts = sum(map(len, steps))
    ended, after = time.process_time(), peak()
    plain = bucketing(groups, batch_size)
    print(
        f"{len(groups):,} groups{what}, batch {batch_size}: {len(steps)} steps planned in {planned - start:.2f} s, "
        f"their {parts} sub-batches made in {ended - planned:.2f} s; {parts / plain:.2f} of plain bucketing, bound "
        f"{lower_bound(groups, batch_size) / plain:.2f}; peak {before:.2f} GB before, {after:.2f} after",
        flush=True,
    )


def peak() -> float:
    """Of this process, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, default=1_000_000, help="of the largest plan")
    parser.add_argument("--curve", action="store_true", help="more exchanges instead")
    options = parser.parse_args()
    if options.curve:
        return curve()
    ratios()
    for batch_size in BATCH_SIZES[::2]:
        large(realistic_groups(100_000, 0), batch_size, "")
    print(f"{peak():.2f} GB before the slices of the largest are made")
    large(varied_groups(options.groups), 8, f", {BUCKETS} buckets a level")


if __name__ == "__main__":
    main()
