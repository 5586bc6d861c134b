"""The plan in words, printed before models are loaded: what will train, at which noise levels, what looks wrong."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

from sga_kohya.config import SgaConfig
from sga_kohya.kit.cli import can_show
from sga_kohya.kit.text import safe
from sga_kohya.training.dataset import Measure, RunDataset
from sga_kohya.training.host import Levels, size_of
from sga_kohya.training.memory import sentence
from sga_kohya.training.memory_report import memory_of, too_much
from sga_kohya.training.preview import SHOWN_TIMESTEPS
from sga_kohya.tuples.planner import granularities
from sga_kohya.tuples.step import Group, Slice, SubBatch
from sga_kohya.words import MANIFEST_NAME, SNR_GAMMA, UNLABELLED

_BARS = (" ▁▂▃▄▅▆▇█", " .:-=+*#@")
"""From empty to full; the second where the console has no blocks."""
_BINS = 20
_FEWER_STEPS = 1.2
"""Sub-batches a step from which a learning rate found without tuples is worth another look."""


def describe(dataset: RunDataset, config: SgaConfig, levels: Levels) -> str:
    """The tuple plan of a run. Returns lines joined by newlines."""
    groups = dataset.planner.groups
    by_k = ", ".join(f"{count} with K={k}" for k, count in dataset.planner.groups_by_k().items())
    lines = ["", "SGA tuple plan", f"  groups    {len(groups)}: {by_k}"]
    memory = list(memory_of(dataset, levels))
    lines += [*_slices(groups, config, levels), *_steps(dataset), *dataset.notes()]
    lines += [f"  memory    {sentence(memory)}"] if memory else []
    warnings = (*_warnings(dataset, config), *levels.advice(), *too_much(memory))
    lines += [f"  warning: {safe(text)}" for text in warnings]
    return "\n".join([*lines, ""])


def _slices(groups: Sequence[Group], config: SgaConfig, levels: Levels) -> Iterator[str]:
    by_label: dict[str | None, list[Slice]] = {}
    for group in groups:
        for item in group:
            by_label.setdefault(item.granularity, []).append(item)
    unet = levels.modulation == SNR_GAMMA
    if unet:
        shown = ", ".join(map(str, SHOWN_TIMESTEPS))
        yield f"  granularity  slices  lambda  Gamma   weight of the loss at t = {shown}"
    else:
        yield "  granularity  slices  lambda  Delta   noise level at 10 %, 50 %, 90 %, and from 0 to 1"
    for label in [*config.granularities, *([None] if None in by_label else [])]:
        items = by_label.get(label, [])
        begin = f"  {label or UNLABELLED:<12} {len(items):>6} {config.weight(label):>7g}"
        if unet:
            gamma = config.gamma(label)
            weights = levels.snr_weights(label)
            text = "  ".join(f"{weights[t]:.2f}" for t in SHOWN_TIMESTEPS)
            yield f"{begin} {'-' if gamma is None else format(gamma, 'g'):>6}   {text}"
        else:
            yield f"{begin} {config.delta(label):>+6g}   {_noise(items, label, levels)}"


def _noise(items: list[Slice], label: str | None, levels: Levels) -> str:
    """Quantiles and a histogram over sigma from 0 to 1, at the granularity's most frequent bucket."""
    if not items:
        return ""
    size = Counter(size_of(item) for item in items).most_common(1)[0][0]
    sigma = levels.noise_levels(label, size, 2000)
    low, middle, high = sigma.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
    counts = torch.histc(sigma, _BINS, 0, 1)
    heights = next(bars for bars in _BARS if can_show(bars) or bars.isascii())
    bars = "".join(heights[-(-int(count) * (len(heights) - 1) // int(counts.max()))] for count in counts)
    return f"{low:.2f}  {middle:.2f}  {high:.2f}  |{bars}|"


def _steps(dataset: RunDataset) -> Iterator[str]:
    if not dataset.planned:
        yield f"  steps     {len(dataset)} an epoch: the host's own batches (sga_tuples=false)"
        return
    kinds = Counter(_kind(part, dataset) for step in dataset.planner.epoch(1) for part in step)
    total = kinds.total()
    ratio = total / max(len(dataset), 1)
    room = sum(dataset.planner.batch_sizes[kind.dataset] * count for kind, count in kinds.items())
    slices = sum(map(len, dataset.planner.groups))
    yield (
        f"  steps     {len(dataset)} tuple steps an epoch, {total} sub-batches "
        f"({ratio:.2f} a step), fill {slices / max(room, 1):.0%}"
    )
    if ratio > _FEWER_STEPS:
        yield (
            f"  rate      without tuples the same passes are {total} steps: at one learning rate the fewer, "
            f"larger steps learn\n            later. Try up to {ratio**0.5:.1f} times the rate, and compare runs at "
            "equal passes"
        )
    yield from _tokens(kinds)


class _Kind(NamedTuple):
    """What sub-batches that take equally much memory have in common."""

    dataset: int
    granularity: str
    slices: int
    each: Measure | None


def _kind(part: SubBatch, dataset: RunDataset) -> _Kind:
    return _Kind(part.dataset, part.granularities[0] or UNLABELLED, len(part.keys), dataset.measure(part))


def _tokens(kinds: Iterable[_Kind]) -> Iterator[str]:
    """The largest sub-batch of each granularity, largest first; nothing where the host tells no tokens."""
    largest: dict[str, tuple[int, _Kind, Measure]] = {}
    for kind in kinds:
        if kind.each is not None:
            found = kind.slices * kind.each.tokens, kind, kind.each
            largest[kind.granularity] = max(largest.get(kind.granularity, found), found)
    lines = sorted(largest.values(), reverse=True)
    for place, (tokens, kind, each) in enumerate(lines):
        frames = f", {each.frames} frames" if each.frames > 1 else ""
        decides = "   the most, so it decides the memory" if place == 0 and tokens > lines[-1][0] else ""
        yield (
            f"  {'' if place else 'tokens':<9} {kind.granularity:<12} {tokens:>9,} in a sub-batch of {kind.slices}: "
            f"{each.width} x {each.height}{frames}{decides}"
        )


def _warnings(dataset: RunDataset, config: SgaConfig) -> Iterator[str]:
    groups = dataset.planner.groups
    present = Counter(item.granularity for group in groups for item in group)
    labelled = [group for group in groups if granularities(group) != {None}]
    yield from dataset.warnings()
    if not labelled:
        yield (
            "no image has a granularity, so this trains as without SGA, one image a group. Name folders 1_macro, "
            "1_meso, 1_micro, or set custom_attributes.granularity, or make slices: python -m sga_kohya.hsd PHOTOS OUT"
        )
        return
    for label in config.granularities:
        if not present[label]:
            yield f"no slice is labelled {label}"
    if present[None]:
        yield f"{present[None]} slices have no granularity (or are regularisation) and train alone, unmodulated"
    lonely = sum(len(granularities(group)) == 1 for group in labelled)
    if lonely:
        yield (
            f"{lonely} of {len(labelled)} groups have one granularity only (K=1): no sibling shares their step. "
            f"Siblings share a file stem, or a group in {MANIFEST_NAME}, and have the same num_repeats"
        )
