"""What the modulation will do, drawn by the host's own sampling without a model: --sga_show_timesteps and the plan."""

import argparse
import functools
import inspect
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from sga_kohya.config import SgaConfig
from sga_kohya.equations.weights import min_snr_weight
from sga_kohya.hosts.sd_scripts import noise
from sga_kohya.hosts.sd_scripts.families import UNET, family_of
from sga_kohya.hosts.sd_scripts.snr import snr
from sga_kohya.kit.line_chart import Line, write_chart
from sga_kohya.training.session import Session
from sga_kohya.tuples.step import Group, SubBatch

# The columns of weights: SNR falls through Gamma = 7 and 4 at t = 116 and 170 of Stable Diffusion's schedule.
SHOWN_TIMESTEPS = (20, 50, 100, 150, 200, 500)
_SAMPLES = 20_000
_BINS = 40
_MOST_LINES = 12
Size = tuple[int, int]


def noise_levels(args: argparse.Namespace, config: SgaConfig, label: str | None, bucket: Size, count: int) -> Tensor:
    """Noise levels of a granularity's training samples, as the host draws them and our seam moves them.

    args: the host's, of a flow-matching script. bucket: (width, height) in pixels. Returns sigma (count,), in [0, 1].
    The random state is left as it was.
    """
    family = family_of(args)
    seam = next(seam for seam in noise.SEAMS if seam.target.startswith(f"{family.sampler}."))
    original = inspect.unwrap(getattr(import_module(family.sampler), seam.target.rpartition(".")[2]))
    session = Session(config)
    session.accelerator = SimpleNamespace(current=SubBatch(0, (), (label,) * count))  # type: ignore[assignment]
    width, height = (side // family.compression for side in bucket)
    empty = torch.empty(count, 0, height, width)  # no channels: the host reads sizes only
    given = [] if seam is noise.SD3 else [_scheduler(args.discrete_flow_shift)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = seam.replace(original, session)(args, *given, empty, empty, torch.device("cpu"), torch.float32)
    return drawn[2].flatten()


@functools.cache
def _scheduler(shift: float) -> Any:
    sd3 = import_module("library.sd3_train_utils")
    return sd3.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)


def snr_weights(args: argparse.Namespace, config: SgaConfig, label: str | None) -> Tensor:
    """The weight of a granularity's loss at each timestep of a U-Net, (1000,). args: the host's."""
    gamma = config.snr_gamma.get(label or "") if config.modulation else None
    if gamma is None:
        gamma = args.min_snr_gamma
    if not gamma or isinstance(gamma, str):  # see modulation.py: the host's own is not set
        return torch.ones(1000)
    zero_terminal = bool(getattr(args, "zero_terminal_snr", False))
    return min_snr_weight(_snr(zero_terminal), gamma, v_prediction=bool(args.v_parameterization))


@functools.cache
def _snr(zero_terminal: bool) -> Tensor:
    from diffusers import DDPMScheduler

    # Stable Diffusion's schedule, which every script of its family writes out.
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    if zero_terminal:
        import_module("library.custom_train_functions").fix_noise_scheduler_betas_for_zero_terminal_snr(scheduler)
    return snr(scheduler)


@dataclass(frozen=True)
class _Row:
    label: str
    sizes: list[Size]
    slices: int
    sigma: Tensor

    @property
    def resolution(self) -> str:
        return "x".join(map(str, self.sizes[0])) if len(self.sizes) == 1 else f"{len(self.sizes)} resolutions"


def show(groups: Iterable[Group], config: SgaConfig, args: argparse.Namespace) -> str:
    """Draw the picture of --sga_show_timesteps and return its numbers as a table."""
    counts = Counter((item.granularity, item.bucket) for group in groups for item in group)
    labels = [*config.granularities, *([None] if any(label is None for label, _ in counts) else [])]
    draw = _show_weights if family_of(args) is UNET else _show_levels
    lines = draw(labels, counts, config, args)
    return "\n".join(["", *lines, f"written to {config.show_timesteps}; nothing was trained", ""])


def _show_weights(
    labels: list[str | None], counts: Counter[tuple[str | None, Size]], config: SgaConfig, args: argparse.Namespace
) -> list[str]:
    curves = {label or "(none)": snr_weights(args, config, label) for label in labels}
    table = ["  granularity   weight of the loss at t =" + "".join(f"{t:>6}" for t in SHOWN_TIMESTEPS)]
    for label, curve in curves.items():
        table.append(f"  {label:<12}  {'':25}" + "".join(f"{curve[t]:6.2f}" for t in SHOWN_TIMESTEPS))
    lines = [Line(label, curve.tolist(), number) for number, (label, curve) in enumerate(curves.items())]
    title, axis = "Weight of the loss: Min-SNR by granularity", "timestep, 0 clean, 1000 noise"
    write_chart(config.show_timesteps, title, axis, lines, right=1000)
    return table


def _show_levels(
    labels: list[str | None], counts: Counter[tuple[str | None, Size]], config: SgaConfig, args: argparse.Namespace
) -> list[str]:
    rows = [row for label in labels for row in _rows(label, counts, config, args)]
    table = ["  granularity   resolution       slices   noise level at 10 %  50 %  90 %   mean"]
    for row in rows:
        low, middle, high = row.sigma.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
        numbers = f"{low:.2f}  {middle:.2f}  {high:.2f}   {row.sigma.mean():.2f}"
        table.append(f"  {row.label:<12}  {row.resolution:<16} {row.slices:>6}   {'':15}{numbers}")
    drawn = sorted(rows, key=lambda row: -row.slices)[:_MOST_LINES]
    if len(drawn) < len(rows):
        table.append(f"  the picture shows the {_MOST_LINES} rows with most slices")
    lines = []
    for number, label in enumerate(label or "(none)" for label in labels):
        mine = [row for row in drawn if row.label == label]
        for place, row in enumerate(mine):
            density = (torch.histc(row.sigma, _BINS, 0, 1) * _BINS / len(row.sigma)).tolist()
            lines.append(Line(f"{label}  {row.resolution}", density, number, shade=0.7 * place / len(mine)))
    title, axis = "Density of noise levels in training", "noise level, 0 clean, 1 noise"
    write_chart(config.show_timesteps, title, axis, lines)
    return table


def _rows(
    label: str | None, counts: Counter[tuple[str | None, Size]], config: SgaConfig, args: argparse.Namespace
) -> list[_Row]:
    """One for each distinct distribution: most modes do not look at the resolution."""
    rows: list[_Row] = []
    for bucket in sorted(bucket for known, bucket in counts if known == label):
        sigma = noise_levels(args, config, label, bucket, _SAMPLES)
        same = next((row for row in rows if torch.equal(row.sigma, sigma)), None)
        if same is None:
            rows.append(_Row(label or "(none)", [bucket], counts[label, bucket], sigma))
        else:
            rows[rows.index(same)] = _Row(same.label, [*same.sizes, bucket], same.slices + counts[label, bucket], sigma)
    return rows
