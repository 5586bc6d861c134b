"""report.html: one self-contained page, no scripts, no network."""

import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from sga_kohya.config import SgaConfig
from sga_kohya.demo import charts
from sga_kohya.demo.experiment import LEVELS, NOISE_LEVELS, PIXELS, RATE, SIDE, Run
from sga_kohya.hsd.out.manifest import Row
from sga_kohya.kit.page import data_uri, render
from sga_kohya.kit.svg import Chart, legend

PACKAGES = ("sga-kohya", "torch", "diffusers", "accelerate", "scikit-image")
QUALITY = 84  # of the pictures in the page
KINDS = ("plain dashed", "plain", "ink")
"""Classes of the three runs' lines."""
STUDY = "examples/evidence/README.md"
CLAIMS = {
    "Tuples damp oscillation": "not supported",
    "Modulation puts each granularity where it learns": "not supported",
    "Slices amplify the signal": "not supported",
    "Faster": "not supported",
    "A DiT needs modulation more, a U-Net tuples": "not supported",
    "Spherical paths are better": "not decided",
}
"""The paper's claims, and what that study says of them on its toys; who has a wheel has no such file."""


@dataclass(frozen=True)
class Facts:
    """All that the page says. rows: H-SD's manifest. runs: of experiment.SETTINGS. started: time.process_time() when
    the demo began."""

    out: Path
    rows: Sequence[Row]
    plan: str
    runs: Sequence[Run]
    seed: int
    quick: bool
    started: float

    @property
    def small(self) -> Run:
        """Without tuples, in batches as large as a sub-batch of SGA."""
        return self.runs[0]

    @property
    def control(self) -> Run:
        """Without tuples, in batches as large as a tuple step."""
        return self.runs[1]

    @property
    def sga(self) -> Run:
        return self.runs[2]

    @cached_property
    def slices(self) -> dict[str, Row]:
        """File below slices/ -> its row."""
        return {row.file: row for row in self.rows if row.file}

    @cached_property
    def css_class(self) -> dict[str, str]:
        """Absolute path of a slice -> the class that shows its image."""
        return {str(self.out / "slices" / file): f"slice{index}" for index, file in enumerate(self.slices)}

    def path_of(self, row: Row) -> str:
        return str(self.out / "slices" / str(row.file))

    @cached_property
    def groups(self) -> list[str]:
        return sorted({row.group for row in self.slices.values() if row.group})


def page(facts: Facts) -> str:
    """The whole page as HTML."""
    return render(
        __package__,
        "page.html",
        facts=facts,
        pixels=PIXELS,
        side=SIDE,
        pictures={name: data_uri(Image.open(path), quality=QUALITY) for path, name in facts.css_class.items()},
        photos=len({row.source for row in facts.slices.values()}),
        seconds=time.process_time() - facts.started,
        groups=[_group(facts, group) for group in facts.groups],
        plans=[(f"{run.name[0].upper()}{run.name[1:]}: {run.words}", _steps(run)) for run in facts.runs],
        noise=_noise_panels(facts.sga),
        noise_key=legend([("density of sigmoid(z + Δ)", "ink"), ("without Δ, sigmoid(z)", "plain dashed")]),
        loss=_loss_panels(facts),
        loss_key=legend(
            [("SGA, in the colour of its scale", "ink"), ("equal batches", "plain"), ("before", "plain dashed")]
        ),
        cosines=charts.cosine_chart([(kind, run.cosines) for kind, run in zip(KINDS, facts.runs, strict=True)]),
        cosine_key=legend([(_cosine_words(run), kind) for kind, run in zip(KINDS, facts.runs, strict=True)]),
        cosine_finding=_cosine_finding(facts),
        study=STUDY,
        claims=CLAIMS,
        finding=_finding(facts),
        samples=[_samples(facts, group) for group in facts.groups],
        table=_runs_table(facts.runs, facts.seed),
        setting=_setting(),
        summary=summary(facts),
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
            "cosine": round(_mean_cosine(run), 4),
        }
        for run in facts.runs
    } | {"seed": facts.seed, "slices": len(facts.slices)}


@dataclass(frozen=True)
class Group:
    """A photo with its slices, coarse to fine. photo: its size in pixels, and the picture as an address."""

    caption: str
    width: int
    height: int
    photo: str
    rows: Sequence[Row]


def _group(facts: Facts, name: str) -> Group:
    rows = _rows(facts, name)
    path = facts.out / "photos" / rows[0].source
    photo = Image.open(path).convert("RGB")
    width, height = photo.size
    photo.thumbnail((480, 480))
    caption = path.with_suffix(".txt").read_text(encoding="utf-8")
    return Group(caption, width, height, data_uri(photo, quality=QUALITY), rows)


def _rows(facts: Facts, group: str) -> list[Row]:
    """The group's slices, coarse to fine."""
    rows = (row for row in facts.slices.values() if row.group == group)
    return sorted(rows, key=lambda row: LEVELS.index(row.granularity))


def _steps(run: Run) -> list[list[list[tuple[str, str | None]]]]:
    """The first steps of the first epoch, as sub-batches of slices, each a path and its label."""
    return [[sorted(zip(sub.keys, sub.granularities, strict=True)) for sub in step] for step in run.plan[:4]]


def _noise_panels(sga: Run) -> list[tuple[str, str, Chart]]:
    """Label, words and chart."""
    shift = SgaConfig().timestep_shift
    drawn = [(label, sga.sigmas.get(label, [])) for label in LEVELS]
    return [
        (
            label,
            f"Δ = {_signed(shift[label])}, {len(sigmas)} draws",
            charts.noise_chart(label, sigmas, shift[label]),
        )
        for label, sigmas in drawn
    ]


def _signed(number: float) -> str:
    return f"{number:+g}".replace("-", "−") if number else "0"


def _loss_panels(facts: Facts) -> list[tuple[str, str, Chart]]:
    """Label, words and chart."""

    def of(losses: dict[tuple[str, int], float], label: str) -> list[float]:
        return [losses[label, index] for index in range(len(NOISE_LEVELS))]

    before, control, sga = facts.sga.before, facts.control.losses, facts.sga.losses
    top = math.ceil(max(*before.values(), *control.values(), *sga.values()) * 5) / 5
    return [
        (
            label,
            f"{_percent(facts.control.saved(label))} with equal batches, {_percent(facts.sga.saved(label))} with SGA",
            charts.loss_chart(label, NOISE_LEVELS, of(before, label), of(control, label), of(sga, label), top),
        )
        for label in LEVELS
    ]


def _percent(part: float) -> str:
    return f"{-100 * part:+.0f} %".replace("-", "−")


def _finding(facts: Facts) -> str:
    """Where the errors fell, whichever way that is."""

    def fell(label: str, wanted: Callable[[float], bool]) -> str:
        return f"{_percent(facts.control.saved(label, wanted))} against {_percent(facts.sga.saved(label, wanted))}"

    return (
        "Where Δ sends them, equal batches against SGA: macro slices above noise level 0.5 "
        f"{fell('macro', lambda x: x > 0.5)}, micro slices below it {fell('micro', lambda x: x < 0.5)}. On their other "
        f"sides: {fell('macro', lambda x: x < 0.5)} and {fell('micro', lambda x: x > 0.5)}. "
        f"One run each, seed {facts.seed}, at equal passes and one learning rate."
    )


def _mean_cosine(run: Run) -> float:
    return sum(run.cosines) / max(1, len(run.cosines))


def _cosine_words(run: Run) -> str:
    return f"{run.name}, {run.words}: {_mean_cosine(run):.2f}".replace("-", "−")


def _cosine_finding(facts: Facts) -> str:
    """What a larger batch does by itself, and what is left for tuples."""
    small, control, sga = map(_mean_cosine, facts.runs)
    return (
        f"Steps of {len(LEVELS)} times as many slices take the mean cosine from {small:.2f} to {control:.2f} whatever "
        f"the slices are; with whole groups and Δ it is {sga:.2f}."
    ).replace("-", "−")


def _samples(facts: Facts, group: str) -> list[tuple[str, list[str]]]:
    """A group's slices, shrunk to what the models see, above what two of the models draw for their captions."""
    paths = [facts.path_of(row) for row in _rows(facts, group)]
    seen = [Image.open(path).resize((PIXELS, PIXELS), Image.Resampling.BOX) for path in paths]
    lines = [("photo", [image.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for image in seen])]
    lines += [(run.name, [_image(run.samples[path]) for path in paths]) for run in (facts.control, facts.sga)]
    return [(name, [data_uri(image, quality=QUALITY) for image in images]) for name, images in lines]


def _runs_table(runs: Sequence[Run], seed: int) -> dict[str, list[str]]:
    return {
        "forward passes (slices)": [f"{run.spent.slices:,}" for run in runs],
        "optimizer steps": [f"{run.spent.steps:,}" for run in runs],
        "slices per step": [f"{run.spent.slices / run.spent.steps:.1f}" for run in runs],
        "model calls": [f"{run.spent.model_calls:,}" for run in runs],
        "training, seconds": [f"{run.spent.seconds:.0f}" for run in runs],
        "trained parameters": [f"{run.parameters / 1e6:.2f} M" for run in runs],
        "learning rate": [f"{RATE:g}" for _ in runs],
        "seed": [str(seed) for _ in runs],
        "mean error before": [f"{run.mean_before():.4f}" for run in runs],
        "mean error after": [f"{run.mean_loss():.4f}" for run in runs],
        "cosine of consecutive gradients": [f"{_mean_cosine(run):.3f}" for run in runs],
    }


def _setting() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    machine = f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} torch threads, {platform.system()}"
    return f"Python {platform.python_version()}, {', '.join(found)}; {machine}; {time.strftime('%Y-%m-%d')}."


def _image(pixels: Tensor) -> Image.Image:
    """pixels: (3, H, W), in [-1, 1]."""
    array = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(array)
