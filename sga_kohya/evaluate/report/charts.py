"""Rank distribution beside the first-place rate of each dataset (Figs. 9 and 10), as a PNG; the page draws its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sga_kohya.evaluate.plan.plan import Plan
from sga_kohya.evaluate.rate.analysis import Ranked
from sga_kohya.kit.files import whole_file
from sga_kohya.kit.text import numeral


def save_figure(plan: Plan, title: str, ranked: Ranked, path: Path) -> None:
    """Write the PNG. Left: how often each variant takes each place. Right: first places by dataset, in percent."""
    import matplotlib

    with matplotlib.rc_context({"text.parse_math": False, "text.usetex": False}):  # a `$` in a label is a `$`
        _save_figure(plan, title, ranked, path)


def _save_figure(plan: Plan, title: str, ranked: Ranked, path: Path) -> None:
    import matplotlib
    import numpy as np
    from matplotlib.figure import Figure

    labels, size = list(plan.labels.values()), len(plan.variants)
    figure = Figure(figsize=(11, 1.6 + 0.55 * max(size, len(ranked.heat))), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    colors = matplotlib.colormaps["viridis"](np.linspace(0.85, 0.1, size))
    begin = np.zeros(size)
    for place in range(size):
        widths = np.array([100 * row[place].value for row in ranked.shares])
        left.barh(labels, widths, left=begin, color=colors[place], label=f"{place + 1}")
        for number, (width, start) in enumerate(zip(widths, begin, strict=True)):
            if width >= 7:
                ink = "black" if colors[place][:3].mean() > 0.45 else "white"
                left.text(start + width / 2, number, f"{width:.0f}", ha="center", va="center", color=ink, fontsize=9)
        begin += widths
    firsts = ranked.first
    left.errorbar(
        [100 * f.value for f in firsts],
        np.arange(size) + 0.32,
        xerr=np.array([[100 * max(0, f.value - f.low), 100 * max(0, f.high - f.value)] for f in firsts]).T,
        fmt="none",
        ecolor="black",
        capsize=3,
        lw=1,
    )
    left.invert_yaxis()
    left.set(xlim=(0, 100), xlabel="% of rankings (whiskers: interval of the first-place rate)", title=title)
    left.legend(title="place", ncols=size, loc="upper center", bbox_to_anchor=(0.5, -0.22), frameon=False)
    _draw_heat(right, labels, ranked)
    with whole_file(path) as part:
        figure.savefig(part, format="png")


def _draw_heat(axes: Any, labels: Sequence[str], ranked: Ranked) -> None:
    """First-place rates, a row for each data set."""
    import numpy as np

    heat = np.array([[100 * number.value for number in row] for row in ranked.heat.values()])
    axes.imshow(heat, cmap="Blues", vmin=0, vmax=max(60.0, np.nanmax(heat, initial=0)), aspect="auto")
    axes.set_xticks(range(len(labels)), labels, rotation=20, ha="right")
    axes.set_yticks(range(len(ranked.heat)), list(ranked.heat))
    axes.set_title("first places by dataset, %")
    for (row, column), value in np.ndenumerate(heat):
        color = "white" if value > 38 else "black"
        axes.text(column, row, numeral(value, ".0f"), ha="center", va="center", color=color)
