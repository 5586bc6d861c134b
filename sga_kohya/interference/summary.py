"""From points and steps to figures with intervals, level by level, and to words.

Intervals are percentile bootstraps over what was drawn independently: tuple steps for gradients, slices for Omega and
kernel products. They say how sure the figures are for this dataset and adapter, and nothing of another training run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sga_kohya.equations import gram as grams
from sga_kohya.interference.points import Measurement
from sga_kohya.tuples.probe import DRAWS

RESAMPLES = 1000
ENOUGH = 8  # draws a level; a bootstrap over fewer is too sure of itself
NEGLIGIBLE = 0.05  # cosines within this are called orthogonal
NOTES = (
    "Below about s* the posterior alpha is one-hot: a noisy latent belongs to the one slice it was made from, so the "
    "cross terms of Omega and of the kernel products of single points vanish there. That is a fact of high dimension, "
    "not of the adapter. Gradients of tuple steps do not vanish.",
    "Latents of different shape live in different spaces, so exact Omega exists only among slices of one shape. The "
    "proxy averages all latents over one small grid; it compares granularities of different shape, and is not Omega.",
)


@dataclass
class Interval:
    """A figure with its 95 % bootstrap interval; NaN where it is undefined."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def known(self) -> bool:
        return math.isfinite(self.value)


@dataclass
class Matrix:
    """A mean Gram matrix over `count` draws. cosine, conflict: by pair of labels, of it and over its draws."""

    labels: list[str]
    mean: list[list[float]]
    count: int
    cosine: dict[str, Interval] = field(default_factory=dict)
    conflict: dict[str, Interval] = field(default_factory=dict)


@dataclass
class Level:
    """One noise level. effective: median N_eff of `latents`; collapse: median s*. control: see grams.Pooled.

    sigma: as asked for, of a U-Net the share of its timesteps. noise: on the scale of s*, std / (mean + std).
    """

    sigma: float
    gradients: Matrix
    kernel: Matrix
    omega: Matrix
    proxy: Matrix
    effective: float
    latents: float
    collapse: float
    loss: float
    control: dict[str, dict[str, float]]
    noise: float


def summarise(measured: Measurement) -> list[Level]:
    """One Level for each noise level that has been measured."""
    return [_level(measured, index, sigma) for index, sigma in enumerate(measured.levels) if measured.steps.get(index)]


def _level(measured: Measurement, index: int, sigma: float) -> Level:
    seen = [point for point in measured.seen if point["level"] == index]
    exact = [point["exact"] for point in seen if point["exact"]]
    proxies = [point["proxy"] for point in seen]
    known = exact or proxies
    steps = [(step["labels"], step["gram"]) for step in measured.steps[index]]
    return Level(
        sigma,
        matrix(steps),
        matrix([(point["labels"], point["kernel"]) for point in exact if "kernel" in point]),
        matrix([(point["labels"], point["omega"]) for point in exact]),
        matrix([(point["labels"], point["omega"]) for point in proxies]),
        _median([point["effective"] for point in known]),
        _median([point["latents"] for point in known]),
        _median([point["collapse"] for point in known if point["collapse"]]),
        _median([point["loss"] for point in known]),
        _control(measured.windows.get(index, []), index),
        _median([point["noise"] for point in known]),
    )


def matrix(draws: Sequence[tuple[list[str], list[list[float]]]]) -> Matrix:
    """Mean, cosines and conflict rates of Gram matrices whose draws may lack a label. draws: (labels, gram)."""
    labels = sorted({label for names, _ in draws for label in names})
    table = torch.full((len(draws), len(labels), len(labels)), math.nan, dtype=torch.float64)
    for row, (names, gram) in zip(table, draws, strict=True):
        at = torch.tensor([labels.index(name) for name in names])
        row[at[:, None], at] = torch.tensor(gram, dtype=torch.float64)
    result = Matrix(labels, table.nanmean(0).tolist() if len(draws) else [], len(draws))
    for i, j in grams.pairs(len(labels)):
        both = table[~table[:, i, j].isnan()][:, [i, i, j], [i, j, j]]  # (n, 3): G_ii, G_ij, G_jj
        both = both[(both[:, 0] > 0) & (both[:, 2] > 0)]
        name = f"{labels[i]}-{labels[j]}"
        result.cosine[name] = bootstrap(both, _cosine)
        result.conflict[name] = bootstrap(both, lambda rows: (rows[..., 1] < 0).double().mean(-1))
    return result


def bootstrap(rows: Tensor, statistic: Any) -> Interval:
    """statistic: of (..., n, 3). rows: (n, 3)."""
    if not len(rows):
        return Interval(math.nan)
    value = float(statistic(rows))
    if len(rows) < 2:
        return Interval(value)
    chosen = torch.randint(len(rows), (RESAMPLES, len(rows)), generator=torch.Generator().manual_seed(0))
    found = statistic(rows[chosen])
    low, high = found[torch.isfinite(found)].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(value, low, high)


def _cosine(rows: Tensor) -> Tensor:
    """Of sums: draws with long gradients count for more, as they do in training."""
    total = rows.sum(-2)
    return total[..., 1] / (total[..., 0] * total[..., 2]).sqrt()


def _control(window: Sequence[Sequence[tuple[str, Tensor]]], seed: int) -> dict[str, dict[str, float]]:
    pooled = [
        (number if len(step) > 1 else "alone", label, vector)
        for number, step in enumerate(window)
        for label, vector in step
    ]
    if not pooled:
        return {}
    vectors = torch.stack([vector for _, _, vector in pooled]).double()
    labels, blocks = [label for _, label, _ in pooled], [block for block, _, _ in pooled]
    found = grams.pool(vectors @ vectors.T, labels, blocks, DRAWS, seed)
    return {name: {"real": found.real[name], **chance} for name, chance in found.control.items()}


def _median(values: Sequence[float]) -> float:
    return float(torch.tensor(values).median()) if values else math.nan


def verdict(levels: Sequence[Level]) -> list[str]:
    """What the gradients say of each pair of granularities, in words, a sentence or two each."""
    if not levels or not any(level.gradients.cosine for level in levels):
        return ["No tuple step had two granularities, so nothing can be said: groups need siblings."]
    return [_of_pair(levels, name) for name in dict.fromkeys(n for level in levels for n in level.gradients.cosine)]


def _of_pair(levels: Sequence[Level], name: str) -> str:
    known = [(level, cos) for level in levels if (cos := level.gradients.cosine.get(name)) and cos.known]
    if not known:
        return f"{name}: never in one step."
    against = [level.sigma for level, cos in known if cos.high < 0 and cos.value < -NEGLIGIBLE]
    together = [level.sigma for level, cos in known if cos.low > 0 and cos.value > NEGLIGIBLE]
    unsure = len(known) - len(against) - len(together)
    low, high = min(cos.value for _, cos in known), max(cos.value for _, cos in known)
    if against and together:
        text = f"conflict at noise level {_list(against)} and help each other at {_list(together)}"
    elif against:
        text = f"conflict at noise level {_list(against)}"
    elif together:
        text = f"help each other at noise level {_list(together)}"
    elif all(max(-cos.low, cos.high) < NEGLIGIBLE for _, cos in known):
        text = "are as good as orthogonal at every noise level"
    else:
        text = "show no clear direction at any noise level"
    if unsure and (against or together):
        text += f"; at {unsure} of {len(known)} levels it is not clear"
    chance = [level for level, _ in known if f"cosine/{name}" in level.control]
    below = [level.sigma for level in chance if level.control[f"cosine/{name}"]["at_or_below"] <= 0.05]
    if below:
        text += f". They agree less than random partitions of the same slices at {_list(below)}"
    elif chance:
        text += ". Random partitions of the same slices agree no better"
    few = min(level.gradients.count for level, _ in known)
    warning = f" Only {few} steps a level: take more --points before you rely on it." if few < ENOUGH else ""
    return f"{name.replace('-', ' and ')} {text} (cosine {low:+.2f} to {high:+.2f}).{warning}"


def _list(numbers: Sequence[float]) -> str:
    words = [f"{number:g}" for number in numbers]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
