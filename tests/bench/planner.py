"""Sub-batches and planning time of the tuple planner, beside plain bucketing and random grouping.

    python tests/bench/planner.py

300 groups with a realistic mix: K = 3 for about 70 %, five macro, four meso and three micro sizes. Also how often two
groups meet again over 20 epochs, and the time for 100,000 groups.
"""

import random
import time
from collections import Counter
from itertools import combinations

from sga_kohya.tuples.planner import Planner, form_groups, pack
from sga_kohya.tuples.step import Group, Slice

SIZES = {"macro": [0.15, 0.45, 0.15, 0.2, 0.05], "meso": [0.35, 0.35, 0.2, 0.1], "micro": [0.7, 0.2, 0.1]}
KINDS = [tuple(SIZES)] * 7 + [("macro", "meso"), ("macro", "micro"), ("macro",)]
SEEDS = 5
EPOCHS = 20


def realistic_groups(count: int, seed: int) -> list[Group]:
    """Groups whose slices fall into buckets by the shares of SIZES."""
    rng = random.Random(seed)
    return form_groups(
        (Slice(0, f"{number}/{label}", label, rng.choices(range(len(SIZES[label])), SIZES[label])[0]), str(number))
        for number in range(count)
        for label in rng.choice(KINDS)
    )


def bucketing(groups: list[Group], batch_size: int) -> int:
    """Batches that plain aspect-ratio bucketing makes of the same slices."""
    counts = Counter((item.granularity, item.bucket) for group in groups for item in group)
    return sum(-(-count // batch_size) for count in counts.values())


def sub_batches(groups: list[Group], batch_size: int, seed: int) -> int:
    return sum(len(step) for step in planner(groups, batch_size, seed).epoch(0))


def planner(groups: list[Group], batch_size: int, seed: int = 0) -> Planner:
    return Planner(groups, [batch_size], lambda *_: 1.0, seed=seed)


def at_random(groups: list[Group], batch_size: int, seed: int) -> int:
    """Sub-batches when groups of equal granularities are joined with no regard to buckets."""
    rng, kinds = random.Random(seed), {}
    for group in rng.sample(groups, len(groups)):
        kinds.setdefault(frozenset(item.granularity for item in group), []).append(group)
    chunks = [g[i : i + batch_size] for g in kinds.values() for i in range(0, len(g), batch_size)]
    return sum(len({(item.granularity, item.bucket) for group in chunk for item in group}) for chunk in chunks)


def meetings(groups: list[Group], batch_size: int) -> str:
    """How often a pair of groups that ever shares a step does so, over EPOCHS epochs."""
    met: Counter = Counter()
    for epoch in range(EPOCHS):
        for step in planner(groups, batch_size).epoch(epoch):
            met.update(combinations(sorted({key.split("/")[0] for part in step for key in part.keys}), 2))
    partners = Counter(name for pair in met for name in pair)
    mean = sum(partners.values()) / len(groups)
    often = sum(count > EPOCHS / 2 for count in met.values()) / len(met)
    return f"{mean:.0f} partners a group, {often:.1%} of pairs that meet do so in more than half of the epochs"


def main() -> None:
    print("batch   random   ours   of plain bucketing's batches (mean of 5 data sets)   pairs over 20 epochs")
    for batch_size in (2, 4, 8):
        data = [realistic_groups(300, seed) for seed in range(SEEDS)]
        base = [bucketing(groups, batch_size) for groups in data]
        rows = {}
        for name, count in (("random", at_random), ("ours", sub_batches)):
            ratios = [count(g, batch_size, s) / b for s, (g, b) in enumerate(zip(data, base, strict=True))]
            rows[name] = sum(ratios) / len(ratios)
        print(f"{batch_size:>5}   {rows['random']:>6.3f}  {rows['ours']:>5.3f}   {meetings(data[0], batch_size)}")
    groups = realistic_groups(100_000, 0)
    for batch_size in (2, 8):
        made = planner(groups, batch_size)
        start = time.perf_counter()
        steps = made.epoch(0)
        print(f"100,000 groups, batch {batch_size}: {len(steps)} steps planned in {time.perf_counter() - start:.2f} s")
    rng, start = random.Random(0), time.perf_counter()
    varied = form_groups(
        (Slice(0, f"{n}/{label}", label, rng.randrange(400)), str(n)) for n in range(100_000) for label in SIZES
    )
    pack(varied, 8, rng)
    print(f"100,000 groups, 400 buckets a level, batch 8: packed in {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
