"""Standalone SVG figures that a README shows: intervals side by side, and lines over passes or rates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tests.bench.evidence.verdicts import Comparison

COLOURS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
    "#8c8c8c",
    "#f0e442",
    "#b07aa1",
    "#1b9e77",
    "#888",
)
STYLE = Markup(
    "<style>text{font:12px system-ui,sans-serif;fill:#222}.small{font-size:11px}.axis{stroke:#999}"
    ".grid{stroke:#ddd}.card{fill:#fff}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.grid{stroke:#444}.card{fill:#16181c}}</style>"
)
WORDS, ROW, PLOT = 430, 24, 300


@dataclass(frozen=True)
class Line:
    """points: (x, y, low, high); low and high NaN without an interval."""

    name: str
    points: Sequence[tuple[float, float, float, float]]


def intervals_figure(title: str, comparisons: Sequence[Comparison]) -> str:
    """A dot and an interval a row; what the verdict needs is filled."""
    ends = [e for c in comparisons for e in (c.found.low, c.found.high, c.found.value) if math.isfinite(e)] or [0.0]
    low, high = min(0.0, *ends), max(0.0, *ends)
    span = (high - low) or 1.0
    ticks = _ticks(low - 0.05 * span, high + 0.05 * span)
    height = 60 + ROW * len(comparisons)

    def at(value: float) -> float:
        return WORDS + PLOT * (value - ticks[0]) / (ticks[-1] - ticks[0])

    parts = [_text(10, 20, title, weight="600")]
    for tick in ticks:
        parts.append(_line(at(tick), 32, at(tick), height - 26, "axis" if tick == 0 else "grid"))
        parts.append(_text(at(tick), height - 10, f"{tick:g}", "middle", small=True))
    for number, one in enumerate(comparisons):
        y = 46 + ROW * number
        parts.append(_text(WORDS - 8, y + 4, one.words, "end", small=True))
        if one.found.bounded:
            parts.append(_line(at(one.found.low), y, at(one.found.high), y, colour=COLOURS[0], width=2))
        if one.found.known:
            fill = COLOURS[0] if one.needed else "none"
            form = '<circle cx="{:.1f}" cy="{}" r="4" stroke="{}" stroke-width="2" fill="{}"/>'
            parts.append(Markup(form).format(at(one.found.value), y, COLOURS[0], fill))
    return _svg(title, WORDS + PLOT + 30, height, parts)


def lines_figure(title: str, x_name: str, y_name: str, lines: Sequence[Line], logarithmic: bool = False) -> str:
    """logarithmic: the horizontal axis, which then has a tick at each point."""
    place = math.log if logarithmic else float
    xs = sorted({p[0] for line in lines for p in line.points})
    ys = [v for line in lines for p in line.points for v in p[1:] if math.isfinite(v)]
    ticks = _ticks(min(ys), max(ys))
    left, top, width, height = 60, 40, 420, 260

    def at(x: float, y: float) -> tuple[float, float]:
        span = (place(xs[-1]) - place(xs[0])) or 1.0
        return (
            left + width * (place(x) - place(xs[0])) / span,
            top + height * (1 - (y - ticks[0]) / (ticks[-1] - ticks[0])),
        )

    parts = [
        _text(10, 20, title, weight="600"),
        _text(left + width / 2, top + height + 38, x_name, "middle", small=True),
    ]
    parts.append(_text(10, 34, y_name, small=True))
    for tick in ticks:
        y = at(xs[0], tick)[1]
        parts += [_line(left, y, left + width, y, "grid"), _text(left - 6, y + 4, f"{tick:g}", "end", small=True)]
    for x in xs if len(xs) < 9 else (xs[0], xs[-1]):
        parts.append(_text(at(x, ticks[0])[0], top + height + 18, f"{x:g}", "middle", small=True))
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        dash = "" if number < len(COLOURS) // 2 + 1 else "5 3"
        places = " ".join("{:.1f},{:.1f}".format(*at(p[0], p[1])) for p in line.points)
        form = '<polyline points="{}" fill="none" stroke="{}" stroke-width="2" stroke-dasharray="{}"/>'
        parts.append(Markup(form).format(places, colour, dash))
        for x, _, low, high in line.points:
            if math.isfinite(low):
                (px, bottom), (_, upper) = at(x, low), at(x, high)
                parts.append(_line(px, bottom, px, upper, colour=colour, width=1))
        y = top + 10 + 19 * number
        parts.append(_line(left + width + 16, y, left + width + 40, y, colour=colour, width=3, dash=dash))
        parts.append(_text(left + width + 46, y + 4, line.name, small=True))
    return _svg(title, left + width + 190, max(top + height + 50, top + 20 + 19 * len(lines)), parts)


def _svg(title: str, width: float, height: float, parts: Sequence[Markup]) -> str:
    form = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w:.0f} {h:.0f}" width="{w:.0f}" height="{h:.0f}" '
        'role="img" aria-label="{title}">{style}<rect class="card" width="100%" height="100%"/>{parts}</svg>\n'
    )
    return str(form.format(w=width, h=height, title=title, style=STYLE, parts=Markup("").join(parts)))


def _text(x: float, y: float, words: str, anchor: str = "start", small: bool = False, weight: str = "400") -> Markup:
    kind = "small" if small else "plain"
    form = '<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}" font-weight="{}">{}</text>'
    return Markup(form).format(x, y, anchor, kind, weight, words)


def _line(
    x: float, y: float, to_x: float, to_y: float, kind: str = "", colour: str = "", width: float = 1, dash: str = ""
) -> Markup:
    how = Markup('class="{}"').format(kind) if kind else Markup('stroke="{}"').format(colour)
    form = '<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" {} stroke-width="{}" stroke-dasharray="{}"/>'
    return Markup(form).format(x, y, to_x, to_y, how, width, dash)


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers from at most low to at least high."""
    rough = ((high - low) or 1.0) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough - 1e-12)
    first = math.floor(low / step + 1e-9)
    return [round(number * step, 10) for number in range(first, math.ceil(high / step - 1e-9) + 1)]
