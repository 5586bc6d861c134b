"""A line chart with Pillow alone: what --sga_show_timesteps draws where no plotting library is installed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageColor, ImageDraw, ImageFont

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
_WIDTH, _HEIGHT, _SCALE = 760, 380, 2
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 180, 36, 46


@dataclass(frozen=True)
class Line:
    """values: in the middle of equal parts of the axis. colour: lines of one colour belong together. shade: 0 to 1."""

    name: str
    values: Sequence[float]
    colour: int
    shade: float = 0.0


def write_chart(path: Path, title: str, x_name: str, lines: Sequence[Line], right: float = 1.0) -> None:
    """Draw lines over an axis from 0 to right. An unfinished file never has the file's name."""
    picture = _draw(title, x_name, lines, right)
    unfinished = path.with_name(f".{path.stem}.part{path.suffix}")
    picture.save(unfinished)
    unfinished.replace(path)


def _draw(title: str, x_name: str, lines: Sequence[Line], right: float) -> Image.Image:
    image = Image.new("RGB", (_WIDTH * _SCALE, _HEIGHT * _SCALE), "white")
    draw = ImageDraw.Draw(image)
    small, large = (ImageFont.load_default(size * _SCALE) for size in (11, 13))
    ticks = _ticks(max((max(line.values) for line in lines), default=1.0))

    def at(x: float, y: float) -> tuple[float, float]:
        inner = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        return (_LEFT + x * inner[0]) * _SCALE, (_TOP + (1 - y / ticks[-1]) * inner[1]) * _SCALE

    draw.text((_LEFT * _SCALE, 8 * _SCALE), title, "black", large)
    draw.text((_LEFT * _SCALE, (_HEIGHT - 20) * _SCALE), x_name, "#444444", small)
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        draw.line([at(part, 0), at(part, ticks[-1])], "#eeeeee", _SCALE)
        x, y = at(part, 0)
        draw.text((x, y + 4 * _SCALE), f"{part * right:g}", "#444444", small, anchor="ma")
    for tick in ticks:
        draw.line([at(0, tick), at(1, tick)], "#eeeeee", _SCALE)
        draw.text((at(0, tick)[0] - 6 * _SCALE, at(0, tick)[1]), f"{tick:g}", "#444444", small, anchor="rm")
    for number, line in enumerate(lines):
        colour = _colour(line)
        points = [at((i + 0.5) / len(line.values), value) for i, value in enumerate(line.values)]
        draw.line(points, colour, 2 * _SCALE, joint="curve")
        left, y = (_WIDTH - _RIGHT + 14) * _SCALE, (_TOP + 10 + 20 * number) * _SCALE
        draw.line([(left, y), (left + 18 * _SCALE, y)], colour, 3 * _SCALE)
        draw.text((left + 24 * _SCALE, y), line.name, "black", small, anchor="lm")
    return image


def _ticks(largest: float) -> list[float]:
    """Round numbers from 0 to at least the largest value."""
    rough = (largest or 1.0) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough - 1e-9)
    return [round(i * step, 10) for i in range(math.ceil(largest / step - 1e-9) + 1)]


def _colour(line: Line) -> tuple[int, ...]:
    full = ImageColor.getrgb(_COLOURS[line.colour % len(_COLOURS)])
    return tuple(round(value + (255 - value) * line.shade) for value in full)
