"""Heat maps as the paper's Fig. 2 and lines over the noise level."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from sga_kohya.interference.summary import Matrix
from sga_kohya.kit.intervals import Interval
from sga_kohya.kit.svg import Chart, picture, text
from sga_kohya.kit.text import UNDEFINED, numeral

CELL, LEFT = 56, 58
BESIDE = 0.01  # of the axis, between series, so that whiskers do not hide each other


def heat_map(matrix: Matrix, title: str) -> Markup:
    """Self-alignment on the diagonal (blue, relative to the largest), cosines off it: green helps, red conflicts.

    Empty where there is nothing to show.
    """
    count = len(matrix.labels)
    if not count or not matrix.mean:
        return Markup("")
    top = max((matrix.mean[i][i] for i in range(count)), default=0.0) or 1.0
    cells = [_cell(matrix, i, j, top) for i in range(count) for j in range(count)]
    for i, label in enumerate(matrix.labels):
        cells.append(text(LEFT - 6, i * CELL + CELL / 2 + 4, label, "end"))
        cells.append(text(LEFT + i * CELL + CELL / 2, count * CELL + 15, label))
    return picture(title, LEFT + count * CELL + 4, count * CELL + 20, Markup("").join(cells))


def _cell(matrix: Matrix, i: int, j: int, top: float) -> Markup:
    value, words, said, kind = _content(matrix, i, j, top)
    x, y = LEFT + j * CELL, i * CELL
    square = Markup(
        '<rect x="{}" y="{}" width="{}" height="{}" rx="4" class="{}" fill-opacity="{:.2f}"><title>{}</title></rect>'
    ).format(x, y, CELL - 2, CELL - 2, kind, 0.08 + 0.62 * min(value, 1), said)
    return square + text(x + CELL / 2 - 1, y + CELL / 2 + 4, words, kind="in")


def _content(matrix: Matrix, i: int, j: int, top: float) -> tuple[float, str, str, str]:
    """Strength from 0 to 1, the words in the cell, those of whoever points at it, and the class of its colour."""
    name = f"{matrix.labels[min(i, j)]}-{matrix.labels[max(i, j)]}"
    if i == j:
        share = matrix.mean[i][i] / top
        found = share, f"{share:.2f}", f"mean squared length {matrix.mean[i][i]:.3g}", "own"
    else:
        cosine = matrix.cosine.get(name, Interval(math.nan))
        words = numeral(cosine.value, "+.2f").replace("-", "−")
        kind = "help" if cosine.value >= 0 else "conflict"
        found = abs(cosine.value), words, f"95 % interval {cosine.brackets('+.2f')}", kind
    return found if math.isfinite(found[0]) else (0.0, UNDEFINED, _why(matrix, name), "grid")


def _why(matrix: Matrix, name: str) -> str:
    """What leaves the cell of a pair without a number."""
    return "not defined: a gradient is zero" if matrix.met(name) else "not defined: these two were never in one draw"


def lines(levels: Sequence[float], series: Sequence[Sequence[Interval]], ticks: Sequence[float], title: str) -> Chart:
    """Series over the noise level, with their intervals as whiskers; the colours are those of `kinds`."""
    chart = Chart(title, "noise level", ticks)
    for kind, values, number in zip(kinds(len(series)), series, range(len(series)), strict=True):
        shift = (number - (len(series) - 1) / 2) * BESIDE
        known = [(sigma + shift, value) for sigma, value in zip(levels, values, strict=True) if value.known]
        points = [(x, value.value) for x, value in known]
        chart.line(points, kind)
        chart.whiskers([(x, value.low, value.high) for x, value in known if value.bounded], kind)
        chart.dots(points, kind)
    return chart


def kinds(count: int) -> list[str]:
    """Classes of that many series. The page has six colours, which come again dashed."""
    return [f"s{number % 6}{' dashed' * (number // 6 % 2)}" for number in range(count)]
