"""What the modulation will do, drawn by the host's own sampling without a model: --sga_show_timesteps and the plan."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sga_kohya.config import SgaConfig
from sga_kohya.kit.line_chart import Line, write_chart
from sga_kohya.training.host import Levels, Size, size_of
from sga_kohya.tuples.groups import Cell
from sga_kohya.words import SNR_GAMMA, UNLABELLED

# The columns of weights: SNR falls through Gamma = 7 and 4 at t = 116 and 170 of Stable Diffusion's schedule.
SHOWN_TIMESTEPS = (20, 50, 100, 150, 200, 500)
_SAMPLES = 20_000
_BINS = 40
_MOST_LINES = 12


@dataclass(frozen=True)
class _Row:
    label: str
    sizes: list[Size]
    slices: int
    sigma: Tensor

    @property
    def resolution(self) -> str:
        return "x".join(map(str, self.sizes[0])) if len(self.sizes) == 1 else f"{len(self.sizes)} resolutions"


def show(cells: Mapping[Cell, int], config: SgaConfig, levels: Levels) -> str:
    """Draw the picture of --sga_show_timesteps and return its numbers as a table. cells: how many slices each has."""
    counts: Counter[tuple[str | None, Size]] = Counter()
    for cell, count in cells.items():
        counts[cell.granularity, size_of(cell)] += count
    labels = [*config.granularities, *([None] if any(label is None for label, _ in counts) else [])]
    draw = _show_weights if levels.modulation == SNR_GAMMA else _show_levels
    assert config.show_timesteps is not None
    lines = draw(labels, counts, config.show_timesteps, levels)
    return "\n".join(["", *lines, f"written to {config.show_timesteps}; nothing was trained", ""])


def _show_weights(
    labels: list[str | None], counts: Counter[tuple[str | None, Size]], file: Path, levels: Levels
) -> list[str]:
    curves = {label or UNLABELLED: levels.snr_weights(label) for label in labels}
    table = ["  granularity   weight of the loss at t =" + "".join(f"{t:>6}" for t in SHOWN_TIMESTEPS)]
    for label, curve in curves.items():
        table.append(f"  {label:<12}  {'':25}" + "".join(f"{curve[t]:6.2f}" for t in SHOWN_TIMESTEPS))
    lines = [Line(label, curve.tolist(), number) for number, (label, curve) in enumerate(curves.items())]
    title, axis = "Weight of the loss: Min-SNR by granularity", "timestep, 0 clean, 1000 noise"
    write_chart(file, title, axis, lines, right=1000)
    return table


def _show_levels(
    labels: list[str | None], counts: Counter[tuple[str | None, Size]], file: Path, levels: Levels
) -> list[str]:
    rows = [row for label in labels for row in _rows(label, counts, levels)]
    table = ["  granularity   resolution       slices   noise level at 10 %  50 %  90 %   mean"]
    for row in rows:
        low, middle, high = row.sigma.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
        numbers = f"{low:.2f}  {middle:.2f}  {high:.2f}   {row.sigma.mean():.2f}"
        table.append(f"  {row.label:<12}  {row.resolution:<16} {row.slices:>6}   {'':15}{numbers}")
    drawn = sorted(rows, key=lambda row: -row.slices)[:_MOST_LINES]
    if len(drawn) < len(rows):
        table.append(f"  the picture shows the {_MOST_LINES} rows with most slices")
    lines = []
    for number, label in enumerate(label or UNLABELLED for label in labels):
        mine = [row for row in drawn if row.label == label]
        for place, row in enumerate(mine):
            density = (torch.histc(row.sigma, _BINS, 0, 1) * _BINS / len(row.sigma)).tolist()
            lines.append(Line(f"{label}  {row.resolution}", density, number, shade=0.7 * place / len(mine)))
    title, axis = "Density of noise levels in training", "noise level, 0 clean, 1 noise"
    write_chart(file, title, axis, lines)
    return table


def _rows(label: str | None, counts: Counter[tuple[str | None, Size]], levels: Levels) -> list[_Row]:
    """One for each distinct distribution: most modes do not look at the resolution."""
    rows: list[_Row] = []
    for bucket in sorted(bucket for known, bucket in counts if known == label):
        sigma = levels.noise_levels(label, bucket, _SAMPLES)
        same = next((row for row in rows if torch.equal(row.sigma, sigma)), None)
        if same is None:
            rows.append(_Row(label or UNLABELLED, [bucket], counts[label, bucket], sigma))
        else:
            rows[rows.index(same)] = _Row(same.label, [*same.sizes, bucket], same.slices + counts[label, bucket], sigma)
    return rows
