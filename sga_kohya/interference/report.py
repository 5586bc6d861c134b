"""interference.json and interference.html: heat maps, conflict over the noise level, and a verdict in words."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sga_kohya.interference import charts, summary
from sga_kohya.interference.points import Measurement
from sga_kohya.interference.summary import Level
from sga_kohya.kit.files import write_whole
from sga_kohya.kit.intervals import Interval
from sga_kohya.kit.page import render
from sga_kohya.kit.svg import Chart, legend
from sga_kohya.kit.text import UNDEFINED, safe

HALVES = (-1, -0.5, 0, 0.5, 1)
QUARTERS = (0, 0.25, 0.5, 0.75, 1)
"""Ticks of the charts."""


def verdict(measured: Measurement) -> str:
    """In words, a line for each pair of granularities."""
    return "\n".join(summary.verdict(summary.summarise(measured)))


def write(out: Path, measured: Measurement, facts: dict[str, str]) -> Path:
    """Write both files into OUT. Returns the page's path."""
    levels = summary.summarise(measured)
    words = summary.verdict(levels)
    out.mkdir(parents=True, exist_ok=True)
    content = {**facts, "verdict": words, "notes": summary.NOTES, "levels": [asdict(level) for level in levels]}
    write_whole(out / "interference.json", json.dumps(_plain(content), indent=1) + "\n")
    write_whole(out / "interference.html", page(levels, words, facts))
    return out / "interference.html"


def page(levels: Sequence[Level], words: Sequence[str], facts: dict[str, str]) -> str:
    """The page, in one file."""
    pairs = list(dict.fromkeys(name for level in levels for name in level.gradients.cosine))
    sigmas = [level.sigma for level in levels]

    def chart(series: list[list[Interval]], ticks: Sequence[float], title: str) -> Chart:
        return charts.lines(sigmas, series, ticks, title)

    return render(
        __package__,
        "page.html",
        facts={name: safe(text) for name, text in facts.items()},
        levels=levels,
        verdict=words,
        notes=summary.NOTES,
        legend=legend(list(zip(pairs, charts.kinds(len(pairs)), strict=True))),
        cosine=chart([_of_gradients(levels, "cosine", name) for name in pairs], HALVES, "Cosine of gradients"),
        conflict=chart(
            [_of_gradients(levels, "conflict", name) for name in pairs], QUARTERS, "Share of steps in conflict"
        ),
        control=chart(
            [_chance(levels, name) for name in pairs],
            HALVES,
            "Cosine of summed gradients against random partitions",
        ),
        steps=sum(level.gradients.count for level in levels),
        slices=sum(level.proxy.count for level in levels),
        exact=sum(level.omega.count for level in levels),
        maps=_maps,
        undefined=UNDEFINED,
    )


def _of_gradients(levels: Sequence[Level], kind: str, name: str) -> list[Interval]:
    return [getattr(level.gradients, kind).get(name, Interval(math.nan)) for level in levels]


def _chance(levels: Sequence[Level], name: str) -> list[Interval]:
    """The real cosine, between the bounds that random partitions have."""
    found = [level.control.get(f"cosine/{name}") for level in levels]
    return [Interval(c["real"], c["low"], c["high"]) if c else Interval(math.nan) for c in found]


def _maps(level: Level) -> list[tuple[str, Markup]]:
    matrices = {
        "gradients, tuple steps": level.gradients,
        "kernel products, exact": level.kernel,
        "Ω, exact": level.omega,
        "Ω of averaged latents, a proxy": level.proxy,
    }
    return [(name, charts.heat_map(matrix, name)) for name, matrix in matrices.items()]


def _plain(value: Any) -> Any:
    """JSON knows no NaN: null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
