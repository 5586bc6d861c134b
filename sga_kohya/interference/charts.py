"""Heat maps as the paper's Fig. 2 and lines over the noise level, as SVG that takes its colours from the page."""

import math
from collections.abc import Sequence
from html import escape

from sga_kohya.interference.summary import Matrix
from sga_kohya.kit.intervals import Interval

CELL, LEFT = 56, 58
WIDTH, HEIGHT, PAD = 340, 200, (40, 12, 12, 34)  # left, right, top, bottom


def heat_map(matrix: Matrix, title: str) -> str:
    """Self-alignment on the diagonal (blue, relative to the largest), cosines off it: green helps, red conflicts."""
    count = len(matrix.labels)
    if not count or not matrix.mean:
        return f'<figure><figcaption>{escape(title)}</figcaption><p class="none">not defined here</p></figure>'
    top = max((matrix.mean[i][i] for i in range(count)), default=0.0) or 1.0
    cells = "".join(_cell(matrix, i, j, top) for i in range(count) for j in range(count))
    names = "".join(
        f'<text x="{LEFT - 6}" y="{i * CELL + CELL / 2 + 4}" text-anchor="end">{escape(label)}</text>'
        f'<text x="{LEFT + i * CELL + CELL / 2}" y="{count * CELL + 15}" text-anchor="middle">{escape(label)}</text>'
        for i, label in enumerate(matrix.labels)
    )
    size = f"0 0 {LEFT + count * CELL + 4} {count * CELL + 20}"
    return (
        f'<figure><svg viewBox="{size}" style="max-width:{LEFT + count * CELL + 4}px" role="img" '
        f'aria-label="{escape(title)}">{cells}{names}</svg><figcaption>{escape(title)}</figcaption></figure>'
    )


def _cell(matrix: Matrix, i: int, j: int, top: float) -> str:
    if i == j:
        value, kind = matrix.mean[i][i] / top, "own"
        text, said = f"{value:.2f}", f"mean squared length {matrix.mean[i][i]:.3g}"
    else:
        name = f"{matrix.labels[min(i, j)]}-{matrix.labels[max(i, j)]}"
        cosine = matrix.cosine.get(name, Interval(math.nan))
        value, kind = abs(cosine.value), "help" if cosine.value >= 0 else "conflict"
        text, said = f"{cosine.value:+.2f}".replace("-", "−"), f"95 % interval {cosine.brackets('+.2f')}"
    x, y = LEFT + j * CELL, i * CELL
    if not math.isfinite(value):
        value, text, said, kind = 0.0, "·", "undefined: a part is zero", "grid"
    return (
        f'<rect x="{x}" y="{y}" width="{CELL - 2}" height="{CELL - 2}" rx="4" class="{kind}" '
        f'fill-opacity="{0.08 + 0.77 * min(value, 1):.2f}"><title>{said}</title></rect>'
        f'<text x="{x + CELL / 2 - 1}" y="{y + CELL / 2 + 4}" text-anchor="middle" class="in">{text}</text>'
    )


def lines(levels: Sequence[float], series: Sequence[Sequence[Interval]], low: float, high: float, title: str) -> str:
    """Up to six series over the noise level, with their intervals as bars. low, high: of the vertical axis."""

    def x(sigma: float) -> float:
        return PAD[0] + sigma * (WIDTH - PAD[0] - PAD[1])

    def y(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return PAD[2] + (1 - share) * (HEIGHT - PAD[2] - PAD[3])

    ticks = [low + (high - low) * part / 4 for part in range(5)]
    parts = [
        f'<line x1="{PAD[0]}" x2="{WIDTH - PAD[1]}" y1="{y(t):.1f}" y2="{y(t):.1f}" '
        f'class="{"zero" if t == 0 else "grid"}"/>'
        f'<text x="{PAD[0] - 6}" y="{y(t) + 4:.1f}" text-anchor="end">{f"{t:g}".replace("-", "−")}</text>'
        for t in ticks
    ]
    parts += [f'<text x="{x(t):.1f}" y="{HEIGHT - PAD[3] + 15}" text-anchor="middle">{t:g}</text>' for t in (0, 0.5, 1)]
    parts.append(f'<text x="{(PAD[0] + WIDTH) / 2}" y="{HEIGHT - 3}" text-anchor="middle">noise level</text>')
    for number, values in enumerate(series):
        shift = (number - (len(series) - 1) / 2) * 3  # so that bars do not hide each other
        known = [(x(s) + shift, v) for s, v in zip(levels, values, strict=True) if v.known]
        path = " ".join(f"{px:.1f},{y(v.value):.1f}" for px, v in known)
        parts.append(f'<polyline points="{path}" class="line s{number}"/>')
        parts += [
            f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{y(v.low):.1f}" y2="{y(v.high):.1f}" class="bar s{number}"/>'
            for px, v in known
            if v.bounded
        ]
        parts += [
            f'<circle cx="{px:.1f}" cy="{y(v.value):.1f}" r="3.5" class="dot s{number}">'
            f"<title>{v.value:.3f}</title></circle>"
            for px, v in known
        ]
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def legend(names: Sequence[str]) -> str:
    """Names in the colours of `lines`."""
    return "".join(f'<span class="key"><i class="s{i}"></i>{escape(name)}</span>' for i, name in enumerate(names))
