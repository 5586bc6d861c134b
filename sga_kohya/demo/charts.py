"""Small SVG charts that take their colours from the page, so that they follow light and dark."""

import math
from collections.abc import Callable, Sequence

import torch

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 38, 12, 12, 34


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


def noise_chart(label: str, values: Sequence[float], delta: float) -> str:
    """Drawn noise levels of one granularity, its theory curve, and dashed the curve without Delta."""
    bars, top = histogram(values), 2.6
    grid = [(i + 0.5) / 100 for i in range(100)]
    width = _x(1 / len(bars)) - _x(0)
    rects = "".join(
        f'<rect x="{_x(i / len(bars)) + 0.75:.1f}" y="{_y(min(bar, top), top):.1f}" width="{width - 1.5:.1f}" '
        f'height="{_y(0, top) - _y(min(bar, top), top):.1f}" rx="1.5" class="bar {label}"/>'
        for i, bar in enumerate(bars)
    )
    plain = _line([(x, shifted_density(0)(x)) for x in grid], top, "line plain dashed")
    theory = _line([(x, shifted_density(delta)(x)) for x in grid], top, "line ink")
    axes = _axes(top, (0, 1, 2), "noise level: 0 clean, 1 pure noise")
    return _svg(axes + rects + plain + theory, f"Noise levels drawn for {label} slices, against the theory curve")


def loss_chart(label: str, levels: Sequence[float], baseline: Sequence[float], sga: Sequence[float], top: float) -> str:
    """Loss of both runs over the noise level, for slices of one granularity. top: of the axis, the same in all."""
    marks = "".join(
        f'<circle cx="{_x(x):.1f}" cy="{_y(y, top):.1f}" r="{r}" class="dot {kind}">'
        f"<title>{name}: {y:.3f}</title></circle>"
        for name, kind, r, values in (("baseline", "plain", 3, baseline), ("SGA", label, 3.5, sga))
        for x, y in zip(levels, values, strict=True)
    )
    lines = _line(list(zip(levels, baseline, strict=True)), top, "line plain dashed") + _line(
        list(zip(levels, sga, strict=True)), top, f"line {label}"
    )
    ticks = [round(top * part, 2) for part in (0, 0.25, 0.5, 0.75, 1)]
    axes = _axes(top, ticks, "noise level")
    return _svg(axes + lines + marks, f"Loss of baseline and SGA for {label} slices by noise level")


def _axes(top: float, ticks: Sequence[float], name: str) -> str:
    rows = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{_y(t, top):.1f}" y2="{_y(t, top):.1f}" class="grid"/>'
        f'<text x="{LEFT - 7}" y="{_y(t, top) + 4:.1f}" text-anchor="end">{t:g}</text>'
        for t in ticks
    )
    columns = "".join(
        f'<text x="{_x(x):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{x:g}</text>' for x in (0, 0.5, 1)
    )
    middle = (LEFT + WIDTH - RIGHT) / 2
    return f'{rows}{columns}<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{name}</text>'


def _line(points: Sequence[tuple[float, float]], top: float, kind: str) -> str:
    path = " ".join(f"{_x(x):.1f},{_y(min(y, top), top):.1f}" for x, y in points)
    return f'<polyline points="{path}" class="{kind}"/>'


def _svg(content: str, title: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{content}</svg>'


def _x(value: float) -> float:
    return LEFT + value * (WIDTH - LEFT - RIGHT)


def _y(value: float, top: float) -> float:
    return TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM)
