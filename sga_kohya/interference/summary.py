"""From points and steps to figures with intervals, level by level, and to words.

What was drawn independently is resampled: tuple steps for gradients, slices for Omega and kernel products. Intervals
hold for each figure alone. The verdict looks at all levels and pairs, so it finds a direction only where thrown signs
would give as much once in 20 times the number of looks (Bonferroni). Both say how sure the figures are for this dataset
and adapter, and nothing of another training run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sga_kohya.equations import gram as grams
from sga_kohya.equations.interference import half_sigma, one_hot_sigma
from sga_kohya.interference.points import Measurement, Point
from sga_kohya.kit.intervals import Factor, Interval, chance_of_sum, resampled, wilson

RESAMPLES = 1000
PARTITIONS = 2000  # random ones of the control
THROWS = 5000  # of signs, for the verdict
CONFIDENCE = 0.95
ENOUGH = 8  # draws a level; fewer say little, however wide their interval
NEGLIGIBLE = 0.05  # cosines within this are called orthogonal
NOTES = (
    "Below about s* the posterior alpha gives more than half to the one slice that a noisy latent was made from, and "
    "not far below, at the level named one-hot, nearly all. The cross terms of Omega and of the kernel products of "
    "single points vanish there. That is a fact of high dimension, not of the adapter. Gradients of tuple steps do not "
    "vanish.",
    "Latents of different shape live in different spaces, so exact Omega exists only among slices of one shape. The "
    "proxy averages all latents over one small grid; it compares granularities of different shape, and is not Omega.",
)


@dataclass
class Matrix:
    """A mean Gram matrix over `count` draws. cosine, conflict: by pair of labels, of it and over its draws.

    chance: how often a cosine as far from 0 comes out where the two gradients have nothing to do with each other.
    """

    labels: list[str]
    mean: list[list[float]]
    count: int
    cosine: dict[str, Interval] = field(default_factory=dict)
    conflict: dict[str, Interval] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)

    def met(self, name: str) -> bool:
        """Whether the two labels of a pair were ever in one draw."""
        names = {f"{self.labels[i]}-{self.labels[j]}": self.mean[i][j] for i, j in grams.pairs(len(self.labels))}
        return math.isfinite(names.get(name, math.nan))


@dataclass
class Level:
    """One noise level. effective: median N_eff of `latents`; half, one_hot: medians of s* and of what lies below it.

    sigma: as asked for, of a U-Net the share of its timesteps. noise: on the scale of s*, std / (mean + std). control:
    see grams.Pooled.
    """

    sigma: float
    gradients: Matrix
    kernel: Matrix
    omega: Matrix
    proxy: Matrix
    effective: float
    latents: float
    half: float
    one_hot: float
    loss: float
    control: dict[str, dict[str, float]]
    noise: float


def summarise(measured: Measurement) -> list[Level]:
    """One Level for each noise level that has been measured."""
    indices = [index for index in range(len(measured.levels)) if measured.steps.get(index)]
    found = [matrix([(step["labels"], step["gram"]) for step in measured.steps[index]]) for index in indices]
    looks = sum(len(gradients.cosine) for gradients in found)
    return [_level(measured, index, gradients, looks) for index, gradients in zip(indices, found, strict=True)]


def _level(measured: Measurement, index: int, gradients: Matrix, looks: int) -> Level:
    seen = [point for point in measured.seen if point["level"] == index]
    exact = [point["exact"] for point in seen if point["exact"]]
    proxies = [point["proxy"] for point in seen]
    known = exact or proxies
    apart = [(point["nearest"], point["latents"]) for point in known if point["nearest"]]
    return Level(
        measured.levels[index],
        gradients,
        matrix([(point["labels"], point["kernel"]) for point in exact if "kernel" in point]),
        matrix([(point["labels"], point["omega"]) for point in exact]),
        matrix([(point["labels"], point["omega"]) for point in proxies]),
        _median_of(known, "effective"),
        _median_of(known, "latents"),
        _median([half_sigma(nearest, count) for nearest, count in apart]),
        _median([one_hot_sigma(nearest, count) for nearest, count in apart]),
        _median_of(known, "loss"),
        _control(measured.windows.get(index, []), index, looks),
        _median_of(known, "noise"),
    )


def matrix(draws: Sequence[tuple[list[str], list[list[float]]]]) -> Matrix:
    """Mean, cosines and conflict rates of Gram matrices whose draws may lack a label. draws: (labels, gram)."""
    labels = sorted({label for names, _ in draws for label in names})
    table = np.full((len(draws), len(labels), len(labels)), math.nan)
    for row, (names, gram) in zip(table, draws, strict=True):
        at = [labels.index(name) for name in names]
        row[np.ix_(at, at)] = gram
    result = Matrix(labels, _mean(table), len(draws))
    for i, j in grams.pairs(len(labels)):
        both = table[:, [i, i, j], [i, j, j]]  # (n, 3): G_ii, G_ij, G_jj
        both = both[~np.isnan(both[:, 1])]
        both = both[(both[:, 0] > 0) & (both[:, 2] > 0)]
        name = f"{labels[i]}-{labels[j]}"
        result.cosine[name] = cosine_of(both)
        result.chance[name] = chance_of_sum(both[:, 1], THROWS, seed=0)
        result.conflict[name] = wilson(int((both[:, 1] < 0).sum()), len(both), CONFIDENCE)
    return result


def _mean(table: np.ndarray) -> list[list[float]]:
    """Over the draws in which both labels are; NaN where there are none."""
    seen = ~np.isnan(table)
    with np.errstate(invalid="ignore"):
        return (np.where(seen, table, 0).sum(0) / seen.sum(0)).tolist() if len(table) else []


def cosine_of(rows: np.ndarray) -> Interval:
    """Of sums: draws with long gradients count for more, as they do in training. rows: (n, 3), as in `matrix`."""
    if not len(rows):
        return Interval(math.nan)

    def cosine(times: np.ndarray) -> np.ndarray:
        total = times @ rows
        return (total[:, 1] / np.sqrt(total[:, 0] * total[:, 2]))[:, None]

    return resampled(cosine, [Factor((len(rows),))], RESAMPLES, CONFIDENCE, seed=0, limits=(-1.0, 1.0))[0]


def _control(window: Sequence[Sequence[tuple[str, Tensor]]], seed: int, looks: int) -> dict[str, dict[str, float]]:
    """Of the pooled gradients, beside random partitions. below: whether that is rare, one of `looks` looks in all."""
    pooled = [
        (number if len(step) > 1 else "alone", label, vector)
        for number, step in enumerate(window)
        for label, vector in step
    ]
    if not pooled:
        return {}
    vectors = torch.stack([vector for _, _, vector in pooled]).double()
    labels, blocks = [label for _, label, _ in pooled], [block for block, _, _ in pooled]
    found = grams.pool(vectors @ vectors.T, labels, blocks, PARTITIONS, seed)
    rare = (1 - CONFIDENCE) / max(1, looks)
    return {
        name: {"real": found.real[name], **chance, "below": float(chance["at_or_below"] <= rare)}
        for name, chance in found.control.items()
    }


def _median_of(points: Sequence[Point], key: str) -> float:
    return _median([point[key] for point in points])


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
        return f"{name}: {_why_unknown(levels, name)}"
    looks = sum(len(level.gradients.cosine) for level in levels)
    sure = [(level, cos) for level, cos in known if level.gradients.chance[name] * looks <= 1 - CONFIDENCE]
    against = [level.sigma for level, cos in sure if cos.high < 0 and cos.value < -NEGLIGIBLE]
    together = [level.sigma for level, cos in sure if cos.low > 0 and cos.value > NEGLIGIBLE]
    unsure = len(known) - len(against) - len(together)
    low, high = min(cos.value for _, cos in known), max(cos.value for _, cos in known)
    if against and together:
        text = f"conflict at noise level {_list(against)} and help each other at {_list(together)}"
    elif against:
        text = f"conflict at noise level {_list(against)}"
    elif together:
        text = f"help each other at noise level {_list(together)}"
    elif all(cos.low > -NEGLIGIBLE and cos.high < NEGLIGIBLE for _, cos in known):
        text = "are as good as orthogonal at every noise level"
    else:
        text = "show no clear direction at any noise level"
    if unsure and (against or together):
        text += f"; at {unsure} of {len(known)} levels it is not clear"
    chance = [level for level, _ in known if f"cosine/{name}" in level.control]
    below = [level.sigma for level in chance if level.control[f"cosine/{name}"]["below"]]
    if below:
        text += f". They agree less than random partitions of the same slices at {_list(below)}"
    elif chance:
        text += ". Random partitions of the same slices agree no better"
    few = min(level.gradients.count for level, _ in known)
    needed = max(ENOUGH, math.ceil(1 + math.log2(looks / (1 - CONFIDENCE))))  # all signs alike must be rare enough
    warning = f" Only {few} steps a level: take {needed} or more --points." if few < needed else ""
    return f"{name.replace('-', ' and ')} {text} (cosine {low:+.2f} to {high:+.2f}).{warning}"


def _why_unknown(levels: Sequence[Level], name: str) -> str:
    """Of a pair that has no cosine at any level."""
    if not any(level.gradients.met(name) for level in levels):
        return "never in one step."
    return "no cosine, because the gradient of one is zero in every step: is there anything in the adapter that learns?"


def _list(numbers: Sequence[float]) -> str:
    words = [f"{number:g}" for number in numbers]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
