"""Standalone SVG figures that a README shows: intervals side by side, and lines over passes or rates."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tests.bench.evidence.verdicts import Comparison

COLOURS = (
    "#0072b2",
    "#e69f00",
    "#8c8c8c",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
    "#7a5195",
    "#a6761d",
    "#8a8a00",
    "#666",
    "#e69f00",
    "#d55e00",
)
"""Of arms in their order; the last two are h-sd and tuples once more, in dashes."""
STYLE = Markup(
    "<style>text{font:13px system-ui,sans-serif;fill:#222}.title{font-weight:600}.small{font-size:12px}"
    "text{paint-order:stroke;stroke:#fff;stroke-width:4px;stroke-linejoin:round}"
    ".axis{stroke:#999}.grid{stroke:#ddd}.card{fill:#fff}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd;stroke:#16181c}.grid{stroke:#444}.card{fill:#16181c}}</style>"
)
"""Words have a rim in the colour of the card, as lines of the grid run behind them."""
WIDTH, EDGE = 500, 16
"""Pixels. As narrow as words allow, so that a telephone shows them at a size to be read."""
ROW = 38
LEGEND, LEGEND_COLUMNS = 20, 3
SOLID = 5
"""The last place of a line without dashes."""


@dataclass(frozen=True)
class Line:
    """points: (x, y). place: of its colour, so that one name has one colour in all figures."""

    name: str
    points: Sequence[tuple[float, float]]
    place: int


def intervals_figure(title: str, subtitle: str, comparisons: Sequence[Comparison]) -> str:
    """Words, and below them a dot and an interval; what the verdict needs is filled."""
    ends = [e for c in comparisons for e in (c.found.low, c.found.high, c.found.value) if math.isfinite(e)] or [0.0]
    low, high = min(0.0, *ends), max(0.0, *ends)
    span = (high - low) or 1.0
    ticks = _ticks(low - 0.05 * span, high + 0.05 * span)
    top = 52
    bottom = top + ROW * len(comparisons)

    def at(value: float) -> float:
        return EDGE + (WIDTH - 2 * EDGE) * (value - ticks[0]) / (ticks[-1] - ticks[0])

    parts = _titles(title, subtitle)
    for tick in ticks:
        parts.append(_line(at(tick), top, at(tick), bottom, "axis" if tick == 0 else "grid"))
        parts.append(_text(at(tick), bottom + 16, f"{tick:g}", "middle"))
    for number, one in enumerate(comparisons):
        y = top + 16 + ROW * number
        parts += [_text(EDGE, y, one.words), *_interval(one, at, y + 13)]
    return _svg(title, bottom + 26, parts)


def _interval(one: Comparison, at: Callable[[float], float], y: float) -> list[Markup]:
    parts = []
    if one.found.bounded:
        parts.append(_line(at(one.found.low), y, at(one.found.high), y, colour=COLOURS[0], width=2))
    if one.found.known:
        fill = COLOURS[0] if one.needed else "none"
        form = '<circle cx="{:.1f}" cy="{}" r="4" stroke="{}" stroke-width="2" fill="{}"/>'
        parts.append(Markup(form).format(at(one.found.value), y, COLOURS[0], fill))
    return parts


def lines_figure(title: str, subtitle: str, x_name: str, lines: Sequence[Line], logarithmic: bool = False) -> str:
    """logarithmic: the horizontal axis, which then has a tick at each point."""
    place = math.log if logarithmic else float
    xs = sorted({x for line in lines for x, _ in line.points})
    ys = [y for line in lines for _, y in line.points]
    ticks = _ticks(min(ys), max(ys))
    left, top, width, height = 56, 60, WIDTH - 56 - 2 * EDGE, 250

    def at(x: float, y: float) -> tuple[float, float]:
        span = (place(xs[-1]) - place(xs[0])) or 1.0
        return (
            left + width * (place(x) - place(xs[0])) / span,
            top + height * (1 - (y - ticks[0]) / (ticks[-1] - ticks[0])),
        )

    parts = _titles(title, subtitle)
    parts.append(_text(left + width / 2, top + height + 38, x_name, "middle"))
    for tick in ticks:
        y = at(xs[0], tick)[1]
        parts += [_line(left, y, left + width, y, "grid"), _text(left - 6, y + 4, f"{tick:g}", "end")]
    for x in xs if len(xs) < 7 else (xs[0], xs[-1]):
        parts.append(_text(at(x, ticks[0])[0], top + height + 18, f"{x:g}", "middle"))
    for line in lines:
        places = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in line.points)
        form = '<polyline points="{}" fill="none" stroke="{}" stroke-width="2" stroke-dasharray="{}"/>'
        parts.append(Markup(form).format(places, *_look(line)))
    rows = math.ceil(len(lines) / LEGEND_COLUMNS)
    return _svg(title, top + height + 56 + LEGEND * rows, parts + _legend(lines, top + height + 58))


def _look(line: Line) -> tuple[str, str]:
    """Colour and dashes."""
    return COLOURS[line.place % len(COLOURS)], "6 3" if line.place > SOLID else ""


def _legend(lines: Sequence[Line], top: float) -> list[Markup]:
    parts = []
    for number, line in enumerate(lines):
        row, column = divmod(number, LEGEND_COLUMNS)
        x, y = EDGE + column * (WIDTH - EDGE) / LEGEND_COLUMNS, top + LEGEND * row
        colour, dash = _look(line)
        parts.append(_line(x, y, x + 22, y, colour=colour, width=3, dash=dash))
        parts.append(_text(x + 27, y + 4, line.name))
    return parts


def _titles(title: str, subtitle: str) -> list[Markup]:
    return [_text(EDGE, 22, title, kind="title"), _text(EDGE, 40, subtitle)]


def _svg(title: str, height: float, parts: Sequence[Markup]) -> str:
    form = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w:.0f} {h:.0f}" width="{w:.0f}" height="{h:.0f}" '
        'role="img" aria-label="{title}">{style}<rect class="card" width="100%" height="100%"/>{parts}</svg>\n'
    )
    return str(form.format(w=WIDTH, h=height, title=title, style=STYLE, parts=Markup("").join(parts)))


def _text(x: float, y: float, words: str, anchor: str = "start", kind: str = "small") -> Markup:
    form = '<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}">{}</text>'
    return Markup(form).format(x, y, anchor, kind, words)


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
