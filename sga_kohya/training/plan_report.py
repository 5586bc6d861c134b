"""The plan in words, printed before models are loaded: what will train, at which noise levels, what looks wrong."""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

import torch

from sga_kohya.config import SgaConfig
from sga_kohya.kit.cli import can_show
from sga_kohya.kit.text import safe
from sga_kohya.training.dataset import Measure, RunDataset
from sga_kohya.training.host import Levels, Size, size_of
from sga_kohya.training.memory import Load, Model, sentence
from sga_kohya.training.memory_report import memory_of, too_much
from sga_kohya.training.paces import forecast, pictures_of, task_of
from sga_kohya.training.preview import SHOWN_TIMESTEPS
from sga_kohya.tuples.groups import Cell
from sga_kohya.words import MANIFEST_NAME, SNR_GAMMA, UNLABELLED

_BARS = (" ▁▂▃▄▅▆▇█", " .:-=+*#@")
"""From empty to full; the second where the console has no blocks."""
_BINS = 20
_FEWER_STEPS = 1.2
"""Sub-batches a step from which a learning rate found without tuples is worth another look."""
_MANY_SMALL = 0.05
"""Share of the steps from which small ones are worth a line: examples/evidence has what 9 % of them cost an adapter."""


def describe(
    dataset: RunDataset,
    config: SgaConfig,
    levels: Levels,
    args: argparse.Namespace,
    asked: tuple[Model, Load] | None,
) -> str:
    """The tuple plan of a run. args: the host's. asked: memory_report.largest. Returns lines joined by newlines."""
    counts = dataset.planner.groups.counts()
    by_k = ", ".join(f"{count} with K={k}" for k, count in dataset.planner.groups_by_k().items())
    lines = ["", "SGA tuple plan", f"  groups    {len(dataset.planner.groups)}: {by_k}"]
    memory = memory_of(asked)
    lines += [*_slices(counts, config, levels), *_steps(dataset), *dataset.notes()]
    lines += [f"  memory    {sentence(memory)}"] if memory else []
    if asked is not None:
        lines += [f"  time      {forecast(task_of(*asked), pictures_of(dataset, args), config)}"]
    warnings = (*_warnings(dataset, config), *levels.advice(), *too_much(memory))
    lines += [f"  warning: {safe(text)}" for text in warnings]
    return "\n".join([*lines, ""])


def _slices(counts: Mapping[Cell, int], config: SgaConfig, levels: Levels) -> Iterator[str]:
    by_label: dict[str | None, Counter[Size]] = defaultdict(Counter)
    for cell, count in counts.items():
        by_label[cell.granularity][size_of(cell)] += count
    unet = levels.modulation == SNR_GAMMA
    if unet:
        shown = ", ".join(map(str, SHOWN_TIMESTEPS))
        yield f"  granularity  slices  lambda  Gamma   weight of the loss at t = {shown}"
    else:
        yield "  granularity  slices  lambda  Delta   noise level at 10 %, 50 %, 90 %, and from 0 to 1"
    for label in [*config.granularities, *([None] if None in by_label else [])]:
        sizes = by_label.get(label, Counter())
        begin = f"  {label or UNLABELLED:<12} {sizes.total():>6} {config.weight(label):>7g}"
        if unet:
            gamma = config.gamma(label)
            weights = levels.snr_weights(label)
            text = "  ".join(f"{weights[t]:.2f}" for t in SHOWN_TIMESTEPS)
            yield f"{begin} {'-' if gamma is None else format(gamma, 'g'):>6}   {text}"
        else:
            yield f"{begin} {config.delta(label):>+6g}   {_noise(sizes, label, levels)}"


def _noise(sizes: Counter[Size], label: str | None, levels: Levels) -> str:
    """Quantiles and a histogram over sigma from 0 to 1, at the granularity's most frequent bucket."""
    if not sizes:
        return ""
    size = sizes.most_common(1)[0][0]
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
    epoch = dataset.planner.epoch(1)
    parts = epoch.sub_batches()
    total = parts.total()
    ratio = total / max(len(dataset), 1)
    room = sum(dataset.planner.batch_sizes[number] * count for number, count in parts.items())
    slices = dataset.planner.groups.slices
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
    yield from _small(dataset)
    yield from _tokens(dataset, epoch.largest())


def _small(dataset: RunDataset) -> Iterator[str]:
    small = dataset.planner.small()
    if small > _MANY_SMALL * len(dataset):
        yield (
            f"  small     {small} of the steps are less than half full, because few groups agree in their granularities"
            ", and an\n            optimizer such as Adam moves as far after one of them as after a full one. A "
            "smaller batch_size\n            makes fewer such steps"
        )


def _tokens(dataset: RunDataset, largest: Mapping[Cell, int]) -> Iterator[str]:
    """The largest sub-batch of each granularity, largest first; nothing where the host tells no tokens."""
    found: dict[str, tuple[int, int, Measure]] = {}
    for cell, slices in largest.items():
        each = dataset.measure(cell)
        if each is not None:
            label, this = cell.granularity or UNLABELLED, (slices * each.tokens, slices, each)
            found[label] = max(found.get(label, this), this)
    lines = sorted(found.items(), key=lambda line: line[1], reverse=True)
    for place, (label, (tokens, slices, each)) in enumerate(lines):
        frames = f", {each.frames} frames" if each.frames > 1 else ""
        decides = "   the most, so it decides the memory" if place == 0 and tokens > lines[-1][1][0] else ""
        yield (
            f"  {'' if place else 'tokens':<9} {label:<12} {tokens:>9,} in a sub-batch of {slices}: "
            f"{each.width} x {each.height}{frames}{decides}"
        )


def _warnings(dataset: RunDataset, config: SgaConfig) -> Iterator[str]:
    present: Counter[str | None] = Counter()
    for cell, count in dataset.planner.groups.counts().items():
        present[cell.granularity] += count
    labelled = {labels: n for labels, n in dataset.planner.groups_by_labels().items() if labels != {None}}
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
    groups, lonely = sum(labelled.values()), sum(count for labels, count in labelled.items() if len(labels) == 1)
    if lonely:
        yield (
            f"{lonely} of {groups} groups have one granularity only (K=1): no sibling shares their step. "
            f"Siblings share a file stem, or a group in {MANIFEST_NAME}, and have the same num_repeats"
        )
