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
    label: str,
    levels: Sequence[float],
    before: Sequence[float],
    control: Sequence[float],
    sga: Sequence[float],
    top: float,
) -> Chart:
    """Error over the noise level, for slices of one granularity. top: of the axis, the same in all."""
    title = f"Error for {label} slices by noise level, before and after fine-tuning"
    chart = Chart(title, "noise level", [round(top * part, 2) for part in (0, 0.25, 0.5, 0.75, 1)])
    for values, kind in ((before, "plain dashed"), (control, "plain"), (sga, label)):
        chart.line(list(zip(levels, values, strict=True)), kind)
    chart.dots(list(zip(levels, control, strict=True)), "plain", "equal batches", radius=3)
    chart.dots(list(zip(levels, sga, strict=True)), label, "SGA")
    return chart


def cosine_chart(series: Sequence[tuple[str, Sequence[float]]]) -> Chart:
    """Cosines of consecutive gradients over a run, averaged over a tenth of it. series: classes and cosines."""
    chart = Chart("Cosine of consecutive gradients over training", "share of the passes", (-0.25, 0, 0.25, 0.5, 0.75))
    for kind, cosines in series:
        points = tenths(cosines)
        chart.line(points, kind)
        chart.dots(points, kind, radius=3)
    return chart


def tenths(values: Sequence[float]) -> list[tuple[float, float]]:
    """(middle, mean) of ten equal parts, or as many as there are values."""
    parts = min(10, len(values))
    ends = [len(values) * number // max(1, parts) for number in range(parts + 1)]
    return [
        ((number + 0.5) / parts, sum(values[low:high]) / (high - low))
        for number, (low, high) in enumerate(zip(ends, ends[1:], strict=False))
    ]
