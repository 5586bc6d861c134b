"""interference.json and interference.html: heat maps, conflict over the noise level, and a verdict in words."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from sga_kohya.interference import charts, summary
from sga_kohya.interference.points import Measurement
from sga_kohya.interference.summary import Level
from sga_kohya.kit.files import write_whole
from sga_kohya.kit.intervals import Interval

PAGE = Path(__file__).with_name("page.html")


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

    def of(kind: str, name: str) -> list[Interval]:
        return [getattr(level.gradients, kind).get(name, Interval(math.nan)) for level in levels]

    chance = [_chance(levels, name) for name in pairs]
    slices = sum(level.proxy.count for level in levels)
    exact = sum(level.omega.count for level in levels)
    return Template(PAGE.read_text(encoding="utf-8")).substitute(
        weights=escape(facts["weights"]),
        dataset=escape(facts["dataset"]),
        verdict="".join(f"<li>{escape(line)}</li>" for line in words),
        notes="".join(f"<li>{escape(note)}</li>" for note in summary.NOTES),
        legend=charts.legend(pairs),
        cosine=charts.lines(sigmas, [of("cosine", name) for name in pairs], -1, 1, "Cosine of gradients"),
        conflict=charts.lines(sigmas, [of("conflict", name) for name in pairs], 0, 1, "Share of steps in conflict"),
        control=charts.lines(sigmas, chance, -1, 1, "Cosine of summed gradients against random partitions"),
        counts=f"{len(levels)} noise levels, {sum(level.gradients.count for level in levels)} tuple steps, {slices} "
        f"noisy slices, of which {exact} have slices of another granularity in their shape",
        maps="".join(_maps(level) for level in levels),
        rows="".join(_row(level) for level in levels),
    )


def _chance(levels: Sequence[Level], name: str) -> list[Interval]:
    """The real cosine, between the bounds that random partitions have."""
    found = [level.control.get(f"cosine/{name}") for level in levels]
    return [Interval(c["real"], c["low"], c["high"]) if c else Interval(math.nan) for c in found]


def _maps(level: Level) -> str:
    figures = [
        charts.heat_map(level.gradients, "gradients, tuple steps"),
        charts.heat_map(level.kernel, "kernel products, exact"),
        charts.heat_map(level.omega, "Ω, exact"),
        charts.heat_map(level.proxy, "Ω of averaged latents, a proxy"),
    ]
    return f"<h3>noise level {level.sigma:g}{_tag(level)}</h3><div class=maps>{''.join(figures)}</div>"


def _tag(level: Level) -> str:
    """NaN, where nothing is known, is below nothing."""
    if level.noise < level.one_hot:
        return " <span class=tag>below s*: α is one-hot</span>"
    return " <span class=tag>below s*: α gives most to one slice</span>" if level.noise < level.half else ""


def _row(level: Level) -> str:
    cells = [f"{level.sigma:g}", f"{level.noise:.3f}", f"{level.effective:.1f} of {level.latents:.0f}"]
    cells += [
        f"{level.half:.3f}",
        f"{level.one_hot:.3f}",
        f"{level.loss:.4f}",
        str(level.gradients.count),
        str(level.omega.count),
    ]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _plain(value: Any) -> Any:
    """JSON knows no NaN: null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
