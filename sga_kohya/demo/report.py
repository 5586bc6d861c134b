"""report.html: one self-contained page, no scripts, no network."""

import base64
import io
import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from string import Template

import torch
from PIL import Image
from torch import Tensor

from sga_kohya.config import SgaConfig
from sga_kohya.demo import charts
from sga_kohya.demo.experiment import LEVELS, NOISE_LEVELS, PIXELS, SIDE, Run
from sga_kohya.hsd.out.manifest import Row
from sga_kohya.tuples.step import TupleStep

PACKAGES = ("sga-kohya", "torch", "diffusers", "accelerate", "scikit-image")


@dataclass(frozen=True)
class Facts:
    """All that the page says. rows: H-SD's manifest. started: time.perf_counter() when the demo began."""

    out: Path
    rows: Sequence[Row]
    plan: str
    baseline: Run
    sga: Run
    seed: int
    quick: bool
    started: float

    @property
    def runs(self) -> tuple[Run, Run]:
        return self.baseline, self.sga

    @cached_property
    def slices(self) -> dict[str, Row]:
        """File below slices/ -> its row."""
        return {row.file: row for row in self.rows if row.file}

    @cached_property
    def css_class(self) -> dict[str, str]:
        """Absolute path of a slice -> the class that shows its image."""
        return {str(self.out / "slices" / file): f"s{index}" for index, file in enumerate(self.slices)}


def page(facts: Facts) -> str:
    """The whole page as HTML."""
    template = Template(files("sga_kohya.demo").joinpath("report.template.html").read_text(encoding="utf-8"))
    groups = sorted({row.group for row in facts.slices.values() if row.group})
    return template.substitute(
        slice_images=_slice_images(facts),
        quick='<p class="notice">Made with --quick: a fraction of the training, only to see that it works.</p>'
        if facts.quick
        else "",
        photos=len({row.source for row in facts.slices.values()}),
        slices=len(facts.slices),
        passes=f"{facts.sga.spent.slices:,}",
        seconds=f"{time.perf_counter() - facts.started:.0f}",
        groups="".join(_group(facts, group) for group in groups),
        plan=escape(facts.plan),
        baseline_steps=_steps(facts, facts.baseline.plan),
        sga_steps=_steps(facts, facts.sga.plan),
        noise=_noise_panels(facts.sga),
        loss=_loss_panels(facts),
        finding=_finding(facts),
        samples=_samples(facts),
        runs=_runs_table(facts),
        setting=escape(_setting(facts)),
        commands=_commands(facts),
        facts=json.dumps(summary(facts)).replace("<", "\\u003c"),
    )


def summary(facts: Facts) -> dict[str, object]:
    """The page's numbers, for programs."""
    return {
        run.name.lower(): {
            "steps": run.spent.steps,
            "model_calls": run.spent.model_calls,
            "forward_passes": run.spent.slices,
            "seconds": round(run.spent.seconds, 1),
            "loss": {label: round(run.mean_loss(label), 4) for label in LEVELS},
        }
        for run in facts.runs
    } | {"seed": facts.seed, "slices": len(facts.slices)}


def _slice_images(facts: Facts) -> str:
    """A CSS rule per slice: each picture is in the page once, however often it is shown."""
    return "\n".join(
        f".{name}{{background-image:url({_data_uri(Image.open(path))})}}" for path, name in facts.css_class.items()
    )


def _group(facts: Facts, group: str) -> str:
    """The photo with the boxes of its slices, and the slices."""
    rows = [row for row in _coarse_to_fine(facts) if row.group == group]
    photo = Image.open(facts.out / "photos" / rows[0].source).convert("RGB")
    boxes = "".join(
        f'<rect x="{x0}" y="{y0}" width="{x1 - x0}" height="{y1 - y0}" class="box {row.granularity}"/>'
        for row in rows
        if row.box
        for x0, y0, x1, y1 in [row.box]
    )
    width, height = photo.size
    photo.thumbnail((480, 480))
    caption = (facts.out / "photos" / rows[0].source).with_suffix(".txt").read_text(encoding="utf-8")
    tiles = "".join(
        f"<figure>{_tile(facts, str(facts.out / 'slices' / str(row.file)), row.granularity)}"
        f"<figcaption>{row.granularity}</figcaption></figure>"
        for row in rows
    )
    return (
        f'<article class="group"><svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(caption)}">'
        f'<image href="{_data_uri(photo)}" width="{width}" height="{height}"/>{boxes}</svg>'
        f'<div><div class="tiles">{tiles}</div><p class="caption">{escape(caption)}</p></div></article>'
    )


def _coarse_to_fine(facts: Facts) -> list[Row]:
    return sorted(facts.slices.values(), key=lambda row: LEVELS.index(row.granularity))


def _tile(facts: Facts, path: str, label: str | None) -> str:
    return f'<div class="tile {label} {facts.css_class[path]}" role="img" aria-label="{label} slice"></div>'


def _steps(facts: Facts, plan: Sequence[TupleStep]) -> str:
    """The steps of the first epoch, each a row of its sub-batches' slices."""
    rows = []
    for step in plan[:4]:
        tiles = [
            "".join(_tile(facts, key, label) for key, label in sorted(zip(sub.keys, sub.granularities, strict=True)))
            for sub in step
        ]
        parts = "".join(f'<span class="sub">{part}</span>' for part in tiles)
        rows.append(f'<li><span class="step">{parts}</span></li>')
    return f"<ol>{''.join(rows)}</ol>"


def _noise_panels(sga: Run) -> str:
    shift = SgaConfig().timestep_shift
    return "".join(
        f'<figure><figcaption><b class="{label}">{label}</b> <span>Δ = {_signed(shift[label])}, '
        f"{len(sga.sigmas.get(label, []))} draws</span></figcaption>"
        f"{charts.noise_chart(label, sga.sigmas.get(label, []), shift[label])}</figure>"
        for label in LEVELS
    )


def _signed(number: float) -> str:
    return f"{number:+g}".replace("-", "−") if number else "0"


def _loss_panels(facts: Facts) -> str:
    def of(run: Run, label: str) -> list[float]:
        return [run.losses[label, index] for index in range(len(NOISE_LEVELS))]

    highest = max(value for run in facts.runs for value in run.losses.values())
    top = math.ceil(highest * 5) / 5
    return "".join(
        f'<figure><figcaption><b class="{label}">{label}</b> <span>mean {facts.baseline.mean_loss(label):.3f} → '
        f"{facts.sga.mean_loss(label):.3f}</span></figcaption>"
        f"{charts.loss_chart(label, NOISE_LEVELS, of(facts.baseline, label), of(facts.sga, label), top)}</figure>"
        for label in LEVELS
    )


def _finding(facts: Facts) -> str:
    """What the numbers say, whichever way they fall."""

    def change(label: str | None, wanted: Callable[[float], bool] = lambda level: True) -> str:
        baseline, sga = (run.mean_loss(label, wanted) for run in facts.runs)
        percent = 100 * (sga - baseline) / baseline
        return "the same" if abs(percent) < 0.5 else f"{abs(percent):.0f}% {'higher' if percent > 0 else 'lower'}"

    return (
        f"Against the baseline, SGA's error is {change('macro', lambda x: x > 0.5)} for macro slices above noise level "
        f"0.5 and {change('micro', lambda x: x < 0.5)} for micro slices below it, where Δ lets them train more often. "
        f"On their other sides it is {change('macro', lambda x: x < 0.5)} and {change('micro', lambda x: x > 0.5)}; "
        f"over everything, {change(None)}. One run each, seed {facts.seed}."
    )


def _samples(facts: Facts) -> str:
    """Per photo: its slices, shrunk to what the models see, above what both models draw for their captions."""
    cards = []
    for group in sorted({row.group for row in facts.slices.values() if row.group}):
        rows = [
            row for label in LEVELS for row in facts.slices.values() if (row.group, row.granularity) == (group, label)
        ]
        paths = [str(facts.out / "slices" / str(row.file)) for row in rows]
        seen = [Image.open(path).resize((PIXELS, PIXELS), Image.Resampling.BOX) for path in paths]
        lines = [("photo", [image.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for image in seen])]
        lines += [(run.name, [_image(run.samples[path]) for path in paths]) for run in facts.runs]
        cells = "".join(
            f'<span class="who">{name}</span>'
            + "".join(f'<img src="{_data_uri(image)}" width="{SIDE}" height="{SIDE}" alt="{name}">' for image in images)
            for name, images in lines
        )
        cards.append(f'<article class="sample">{cells}</article>')
    return "".join(cards)


def _runs_table(facts: Facts) -> str:
    def row(name: str, cells: Sequence[object], strong: bool = False) -> str:
        body = "".join(f"<td>{cell}</td>" for cell in cells)
        return f'<tr{" class=strong" if strong else ""}><th scope="row">{name}</th>{body}</tr>'

    runs = facts.runs
    return (
        "<thead><tr><td></td>"
        + "".join(f'<th scope="col">{run.name}</th>' for run in runs)
        + "</tr></thead><tbody>"
        + row("forward passes (slices)", [f"{run.spent.slices:,}" for run in runs], strong=True)
        + row("optimizer steps", [f"{run.spent.steps:,}" for run in runs])
        + row("slices per step", [f"{run.spent.slices / run.spent.steps:.1f}" for run in runs])
        + row("model calls", [f"{run.spent.model_calls:,}" for run in runs])
        + row("training, seconds", [f"{run.spent.seconds:.0f}" for run in runs])
        + row("parameters", [f"{run.parameters / 1e6:.2f} M" for run in runs])
        + row("seed", [facts.seed for _ in runs])
        + row("mean error", [f"{run.mean_loss():.4f}" for run in runs])
        + "</tbody>"
    )


def _setting(facts: Facts) -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    machine = f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} torch threads, {platform.system()}"
    return f"Python {platform.python_version()}, {', '.join(found)}; {machine}; {time.strftime('%Y-%m-%d')}."


def _commands(facts: Facts) -> str:
    return "".join(f"<pre><code>{escape(run.command)}</code></pre>" for run in facts.runs)


def _image(pixels: Tensor) -> Image.Image:
    """pixels: (3, H, W), in [-1, 1]."""
    array = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(array)


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=84)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
