"""The arms and their controls: each takes the product's own tuple plan and undoes one thing in it.

So all arms on slices see the same sub-batches in number and size; what differs is which slices share a sub-batch, which
sub-batches share an optimizer step, and at which noise levels (or loss weights) the granularities train.

    raw            photos, stock batches
    h-sd           the plan's sub-batches, one granularity each, one a step, in random order
    h-sd mixed     the same with slices of any granularity in a sub-batch: stock where all slices share one bucket
    without tuples h-sd with modulation
    without modulation   the plan as it is: tuples alone
    full           the plan with modulation
  controls
    accumulation   as many sub-batches a step as a tuple has, of random granularities and photos
    stratified     one sub-batch of each granularity a step, siblings kept apart
    opposite       full with the modulation's order turned round
    one common     full with one Delta (Gamma) for all granularities
  h-sd and tuples alone, each without the steps that hold fewer slices than one batch (what groups leave over)
    h-sd, no small steps
    tuples, no small steps
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sga_kohya.config import SgaConfig
from sga_kohya.tuples.groups import form_groups
from sga_kohya.tuples.planner import Planner, eq_6
from sga_kohya.tuples.step import Slice, SubBatch, TupleStep

PHOTOS, PLAIN, LEVEL, TUPLES, RANDOM, APART = "photos", "plain", "level", "tuples", "random", "apart"
"""How a step is made up."""


@dataclass(frozen=True)
class Arm:
    """steps: one of the six ways above. shift, gamma: Delta and Gamma by granularity; empty without modulation.

    small: whether steps of fewer slices than a batch holds are taken too.
    """

    name: str
    steps: str
    shift: dict[str, float]
    gamma: dict[str, float]
    small: bool = True


_PAPER = SgaConfig()
_LEVELS = list(_PAPER.timestep_shift)


def _turned(table: dict[str, float]) -> dict[str, float]:
    return dict(zip(table, reversed(table.values()), strict=True))


ARMS = {
    arm.name: arm
    for arm in (
        Arm("raw", PHOTOS, {}, {}),
        Arm("h-sd", LEVEL, {}, {}),
        Arm("h-sd mixed", PLAIN, {}, {}),
        Arm("without tuples", LEVEL, _PAPER.timestep_shift, _PAPER.snr_gamma),
        Arm("without modulation", TUPLES, {}, {}),
        Arm("full", TUPLES, _PAPER.timestep_shift, _PAPER.snr_gamma),
        Arm("accumulation", RANDOM, {}, {}),
        Arm("stratified", APART, {}, {}),
        Arm("opposite", TUPLES, _turned(_PAPER.timestep_shift), _turned(_PAPER.snr_gamma)),
        Arm("one common", TUPLES, dict.fromkeys(_LEVELS, 0.5), dict.fromkeys(_LEVELS, 5.0)),
        Arm("one common, low", TUPLES, dict.fromkeys(_LEVELS, -0.5), dict.fromkeys(_LEVELS, 4.0)),
        Arm("h-sd, no small steps", LEVEL, {}, {}, small=False),
        Arm("tuples, no small steps", TUPLES, {}, {}, small=False),
    )
}


@dataclass(frozen=True)
class Material:
    """What one seed trains on. photos: keys of whole photos. slices: with their groups."""

    photos: Sequence[str]
    slices: Sequence[tuple[Slice, str]]


def sub_batches(arm: Arm, material: Material, batch_size: int, seed: int) -> Iterator[SubBatch]:
    """Without end, epoch after epoch; a SubBatch with `last` closes its optimizer step."""
    planner = Planner(form_groups(material.slices), [batch_size], eq_6(SgaConfig()), seed=seed)
    epoch = 0
    while True:
        rng = random.Random(f"{arm.steps}/{seed}/{epoch}")
        steps = _photo_steps(material.photos, batch_size, rng) if arm.steps == PHOTOS else list(planner.epoch(epoch))
        remade = _REMADE[arm.steps](steps, rng)
        yield from (part for step in remade if arm.small or _size(step) >= batch_size for part in step)
        epoch += 1


def _size(step: TupleStep) -> int:
    return sum(len(part.keys) for part in step)


def _photo_steps(photos: Sequence[str], size: int, rng: random.Random) -> list[TupleStep]:
    order = rng.sample(photos, len(photos))
    chunks = [tuple(order[at : at + size]) for at in range(0, len(order), size)]
    return [(SubBatch(0, chunk, (None,) * len(chunk)),) for chunk in chunks]


def _as_planned(steps: list[TupleStep], rng: random.Random) -> list[TupleStep]:
    return steps


def _one_each(steps: list[TupleStep], rng: random.Random) -> list[TupleStep]:
    """Every sub-batch a step of its own, with weight 1, as stock trainers do; siblings apart."""
    parts = [part for step in _apart(steps, rng) for part in step]
    rng.shuffle(parts)
    return [(replace(part, weight=1.0, last=True),) for part in parts]


def _plain(steps: list[TupleStep], rng: random.Random) -> list[TupleStep]:
    """As _one_each, with slices of any granularity side by side."""
    return _one_each(_exchanged(steps, rng, lambda label: None), rng)


def _random(steps: list[TupleStep], rng: random.Random) -> list[TupleStep]:
    """Steps of as many sub-batches as before, drawn from the whole epoch; each counts the same in its step."""
    parts = [part for step in _apart(steps, rng) for part in step]
    rng.shuffle(parts)
    line = iter(parts)
    found = []
    for step in steps:
        chosen = [next(line) for _ in step]
        found.append(
            tuple(
                replace(part, weight=1 / len(chosen), last=number == len(chosen) - 1)
                for number, part in enumerate(chosen)
            )
        )
    return found


def _apart(steps: list[TupleStep], rng: random.Random) -> list[TupleStep]:
    """The same plan with the slices of each granularity shuffled over the epoch: siblings meet by chance only."""
    return _exchanged(steps, rng, lambda label: label)


def _exchanged(steps: list[TupleStep], rng: random.Random, kind) -> list[TupleStep]:
    """The slices of each kind change places over the epoch. kind: of a granularity."""
    kinds: dict[object, list[tuple[str, str | None]]] = defaultdict(list)
    for step in steps:
        for part in step:
            for key, label in zip(part.keys, part.granularities, strict=True):
                kinds[kind(label)].append((key, label))
    for members in kinds.values():
        rng.shuffle(members)

    def refilled(part: SubBatch) -> SubBatch:
        drawn = [kinds[kind(label)].pop() for label in part.granularities]
        return replace(part, keys=tuple(key for key, _ in drawn), granularities=tuple(label for _, label in drawn))

    return [tuple(refilled(part) for part in step) for step in steps]


_REMADE = {
    PHOTOS: _as_planned,
    PLAIN: _plain,
    LEVEL: _one_each,
    TUPLES: _as_planned,
    RANDOM: _random,
    APART: _apart,
}
