"""What the demo's page draws: noise levels against theory, and the loss of both runs."""

import math
from collections.abc import Callable, Sequence

import torch

from sga_kohya.kit.svg import Chart


def shifted_density(delta: float) -> Callable[[float], float]:
    """The density of sigmoid(z + delta), z standard normal (Eq. 30 with s = 1), at noise levels in (0, 1)."""

    def density(sigma: float) -> float:
        z = math.log(sigma / (1 - sigma)) - delta
        return math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / (sigma * (1 - sigma))

    return density


def histogram(values: Sequence[float], bins: int = 20) -> list[float]:
    """The density of values in [0, 1], in equal bins."""
    counts = torch.histc(torch.tensor(values), bins, 0, 1)
    return (counts * bins / max(1, len(values))).tolist()


def noise_chart(label: str, values: Sequence[float], delta: float) -> Chart:
    """Drawn noise levels of one granularity, its theory curve, and dashed the curve without Delta."""
    title = f"Noise levels drawn for {label} slices, against the theory curve"
    chart = Chart(title, "noise level: 0 clean, 1 pure noise", (0, 1, 2, 3))
    grid = [(i + 0.5) / 100 for i in range(100)]
    chart.bars(histogram(values), label)
    for kind, curve in (("plain dashed", shifted_density(0)), ("ink", shifted_density(delta))):
        chart.line([(x, curve(x)) for x in grid], kind)
    return chart


def loss_chart(
    label: str, levels: Sequence[float], baseline: Sequence[float], sga: Sequence[float], top: float
) -> Chart:
    """Loss of both runs over the noise level, for slices of one granularity. top: of the axis, the same in all."""
    title = f"Loss of baseline and SGA for {label} slices by noise level"
    chart = Chart(title, "noise level", [round(top * part, 2) for part in (0, 0.25, 0.5, 0.75, 1)])
    of_baseline = list(zip(levels, baseline, strict=True))
    of_sga = list(zip(levels, sga, strict=True))
    chart.line(of_baseline, "plain dashed")
    chart.line(of_sga, label)
    chart.dots(of_baseline, "plain", "baseline", radius=3)
    chart.dots(of_sga, label, "SGA")
    return chart
