"""Charts over an axis from 0 to 1, as SVG that takes its colours from the page and so follows light and dark.

kit/page/base.html has the styles. A series is drawn in the colour --c of its class, which the page gives it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 12, 36

Point = tuple[float, float]


@dataclass
class Chart:
    """title: for whoever cannot see it. name: of the horizontal axis. ticks: of the vertical one, from low to high.

    What is drawn first lies below. Values beyond an end of the axis are drawn at it.
    """

    title: str
    name: str
    ticks: Sequence[float]
    parts: list[Markup] = field(default_factory=list)

    def bars(self, values: Sequence[float], kind: str) -> None:
        """A histogram: values in equal parts of the horizontal axis. kind: the class of the series."""
        width = (WIDTH - LEFT - RIGHT) / len(values)
        for number, value in enumerate(values):
            top = self._y(value)
            self._add(
                '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="1.5" class="bar {}"/>',
                *(LEFT + number * width + 0.75, top, width - 1.5, self._y(0) - top, kind),
            )

    def line(self, points: Sequence[Point], kind: str) -> None:
        path = " ".join(f"{_x(x):.1f},{self._y(y):.1f}" for x, y in points)
        self._add('<polyline points="{}" class="line {}"/>', path, kind)

    def dots(self, points: Sequence[Point], kind: str, name: str = "", radius: float = 3.5) -> None:
        """Each says its value, after the name, to whoever points at it."""
        words = f"{name}: " if name else ""
        for x, y in points:
            self._add(
                '<circle cx="{:.1f}" cy="{:.1f}" r="{}" class="dot {}"><title>{}{:.3f}</title></circle>',
                *(_x(x), self._y(y), radius, kind, words, y),
            )

    def whiskers(self, ends: Sequence[tuple[float, float, float]], kind: str) -> None:
        """ends: place on the horizontal axis, low and high."""
        for x, low, high in ends:
            self._add(
                '<line x1="{0:.1f}" x2="{0:.1f}" y1="{1:.1f}" y2="{2:.1f}" class="whisker {3}"/>',
                *(_x(x), self._y(low), self._y(high), kind),
            )

    def __html__(self) -> Markup:
        """How a template writes it."""
        return picture(self.title, WIDTH, HEIGHT, self._axes() + Markup("").join(self.parts), "chart")

    def _add(self, form: str, *values: object) -> None:
        self.parts.append(Markup(form).format(*values))

    def _axes(self) -> Markup:
        rows = (
            Markup('<line x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}" class="{}"/>').format(
                *(LEFT, WIDTH - RIGHT, "zero" if tick == 0 and self.ticks[0] < 0 else "grid"), y=self._y(tick)
            )
            + text(LEFT - 7, self._y(tick) + 4, f"{tick:g}".replace("-", "−"), "end")
            for tick in self.ticks
        )
        columns = (text(_x(x), HEIGHT - BOTTOM + 16, f"{x:g}") for x in (0, 0.5, 1))
        name = text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, self.name)
        return Markup("").join([*rows, *columns, name])

    def _y(self, value: float) -> float:
        low, high = self.ticks[0], self.ticks[-1]
        share = (min(max(value, low), high) - low) / (high - low)
        return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)


def _x(value: float) -> float:
    return LEFT + value * (WIDTH - LEFT - RIGHT)


def legend(series: Sequence[tuple[str, str]]) -> Markup:
    """series: names and their classes."""
    keys = (Markup('<span><i class="{}"></i>{}</span>').format(kind, name) for name, kind in series)
    return Markup('<p class="key">{}</p>').format(Markup("").join(keys))


def picture(title: str, width: float, height: float, content: Markup, kind: str = "picture") -> Markup:
    """kind: picture, no larger than drawn, or chart, as wide as its place."""
    form = '<svg class="{}" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" aria-label="{}">{}</svg>'
    return Markup(form).format(kind, title, content, w=width, h=height)


def text(x: float, y: float, words: str, anchor: str = "middle", kind: str = "") -> Markup:
    """anchor: which end of the words lies at x: start, middle or end. kind: a class, if any."""
    of_kind = Markup(' class="{}"').format(kind) if kind else Markup("")
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}"{}>{}</text>').format(x, y, anchor, of_kind, words)
