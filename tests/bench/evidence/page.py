"""Stage 6: examples/evidence: README.md with a figure a claim, and the data as CSV. Only words here; no judgement."""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from sga_kohya.kit.files import write_csv, write_whole
from sga_kohya.kit.intervals import Interval, student
from sga_kohya.version import __version__
from tests.bench.evidence import verdicts
from tests.bench.evidence.corpora import LEVELS
from tests.bench.evidence.figures import Line, intervals_figure, lines_figure
from tests.bench.evidence.measures import HALVES, NOISE_LEVELS
from tests.bench.evidence.study import CELLS, STOCK, Cell, Study, error_of
from tests.bench.evidence.verdicts import Claim, Comparison, Runs

FIGURES = {1: "damping", 2: "modulation", 3: "slices", 4: "faster", 5: "parts"}
UNITS = {1: "difference of the measure, or % of the error", 4: "% of the error"}
FORGOTTEN = (
    ("retention", "error on the broad corpus, which the model was pretrained on", ".4f"),
    ("frechet_whole", "Fréchet distance of samples to held-out photos", ".3f"),
    ("frechet_slices", "Fréchet distance to held-out slices", ".3f"),
    ("copied", "share of samples nearer to a training picture than to a held-out one", ".3f"),
)


@dataclass(frozen=True)
class Finished:
    cell: Cell
    runs: Runs

    @property
    def seeds(self) -> int:
        return len({row["seed"] for row in self.runs.rows})


def write_page(study: Study, folder: Path) -> list[Claim]:
    """Everything that is known of the cells with runs. The words of interpretation are in FOLDER/notes.md."""
    finished = [Finished(cell, Runs(study.rows(cell), study.size.choosing)) for cell in CELLS if study.rows(cell)]
    main = finished[0]
    unet = next((one for one in finished if one.cell.model == "unet"), Finished(CELLS[1], Runs([], 1)))
    short, whole = study.size.passes[-2:]
    found = verdicts.claims(main.runs, unet.runs, short, whole)
    folder.mkdir(parents=True, exist_ok=True)
    for claim in found:
        title = f"{claim.number}. {claim.title}: {claim.verdict}"
        chart = intervals_figure(title, claim.comparisons, UNITS.get(claim.number, "% of the error"))
        write_whole(folder / f"{FIGURES[claim.number]}.svg", chart)
    for number, one in enumerate(finished):
        write_whole(folder / f"curves-{number}.svg", _curves(one))
        write_whole(folder / f"rates-{number}.svg", _rates(one))
    _write_data(finished, folder)
    notes = (folder / "notes.md").read_text(encoding="utf-8") if (folder / "notes.md").is_file() else ""
    write_whole(folder / "README.md", _readme(study, finished, found, notes))
    return found


def _readme(study: Study, finished: Sequence[Finished], found: Sequence[Claim], notes: str) -> str:
    size = study.size
    parts = [
        "# What a small study says of the papers' claims",
        "",
        "Toy models, pretrained on desktop wallpapers and fine-tuned on drawings, in every arm and control that the "
        "claims need. It can show that an effect exists or is absent *here*; it is no measurement of FLUX or SDXL.",
        "",
        "| claim | what would support it, said before the runs | here |",
        "|---|---|---|",
        *(f"| {c.number}. {c.title} | {c.says} | **{c.verdict}** |" for c in found),
        "",
        notes,
        "## The claims, one by one",
        "",
        "Every interval is Student's 95 % of one difference a seed; each seed has its own training and held-out photos, "
        "order and noise, the same in all arms. A filled dot is needed for the verdict, an open one is for information. "
        f"Errors are in percent of the other arm's, positive where the claim's side is better; a benefit below "
        f"{verdicts.MARGIN:g} % (of a cosine {verdicts.COSINE_MARGIN:g}) counts as none. Errors are compared after equal "
        "passes of equal batches, each arm at its own best rate; gradients at one rate for all.",
    ]
    for claim in found:
        parts += ["", f"### {claim.number}. {claim.title}: {claim.verdict}", "", f"![]({FIGURES[claim.number]}.svg)", ""]
        parts += ["| comparison | difference | seeds | |", "|---|---|---|---|", *map(_row, claim.comparisons)]
    parts += ["", "## Every ground that was run"]
    for number, one in enumerate(finished):
        parts += ["", *_cell(number, one, size.passes)]
    parts += ["", *_how(study, finished)]
    return "\n".join(parts) + "\n"


def _row(one: Comparison) -> str:
    spec = ".3f" if one.margin < 0.1 else ".2f"
    value = f"{one.found.value:{spec}} {one.found.brackets(spec)}" if one.found.known else "not run"
    verdict = f"**{one.verdict}**" if one.needed else one.verdict
    return f"| {one.words} | {value} | {one.seeds} | {verdict} |"


def _cell(number: int, one: Finished, passes: Sequence[int]) -> list[str]:
    runs = one.runs
    lines = [
        f"### {one.cell.name}",
        "",
        f"![](curves-{number}.svg) ![](rates-{number}.svg)",
        "",
        f"After {passes[-1]} passes, each arm at its own best rate; error is the mean over granularities and noise levels "
        "on the half of the held-out photos by which nothing was chosen; against h-sd, in percent, positive is better.",
        "",
        "| arm | best rate | seeds | error | saved against h-sd | cosine of consecutive gradients, at one rate | "
        "path efficiency |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in one.cell.arms:
        rows = list(runs.at(arm).values())
        if rows:
            same = list(runs.at(arm, own=False).values()) or rows
            lines.append(
                f"| {arm} | {runs.best[arm]:g} | {len(rows)} | {_mean(rows, verdicts.error()):.4f} | "
                f"{_against(runs, arm, verdicts.error(), True)} | {_mean(same, lambda r: r['cosine']):.3f} | "
                f"{_mean(same, lambda r: r['efficiency']):.3f} |"
            )
    return lines + _others(one) + _conflict(one)


def _others(one: Finished) -> list[str]:
    lines = ["", f"| arm | {' | '.join(words for _, words, _ in FORGOTTEN)} |", "|---" * (1 + len(FORGOTTEN)) + "|"]
    for arm in one.cell.arms:
        rows = list(one.runs.at(arm).values())
        if rows:
            cells = (f"{_mean(rows, _key(key)):{spec}} {_spread(rows, key, spec)}" for key, _, spec in FORGOTTEN)
            lines.append(f"| {arm} | {' | '.join(cells)} |")
    return lines


def _conflict(one: Finished) -> list[str]:
    """How much there is to damp: cosines between the granularities' gradients."""
    rows = list(one.runs.at(STOCK, own=False).values())
    names = [name for name in (rows[0]["conflict"] if rows else {}) if name.startswith("cosine/")]
    if not names:
        return []
    said = ", ".join(
        f"{name.removeprefix('cosine/')} {student([row['conflict'][name] for row in rows]).value:.2f} "
        f"{student([row['conflict'][name] for row in rows]).brackets('.2f')}"
        for name in names
    )
    return ["", f"Cosines between the gradients of granularities (Eq. 43-45) at the end of h-sd: {said}."]


def _key(key: str) -> Callable[[dict[str, Any]], float]:
    return lambda row: float(row[key])


def _mean(rows: Sequence[dict[str, Any]], measure: Callable[[dict[str, Any]], float]) -> float:
    return fmean(map(measure, rows))


def _spread(rows: Sequence[dict[str, Any]], key: str, spec: str) -> str:
    return student([float(row[key]) for row in rows]).brackets(spec)


def _against(runs: Runs, arm: str, measure: verdicts.Measure, own: bool) -> str:
    if arm == STOCK:
        return ""
    values = runs.differences(arm, STOCK, measure, own, relative=True)
    found = student(values) if values else Interval(float("nan"))
    return f"{found.value:+.2f} {found.brackets('+.2f')}"


def _curves(one: Finished) -> str:
    lines = []
    for arm in one.cell.arms:
        rows = list(one.runs.at(arm).values())
        if rows:
            lines.append(Line(arm, [_point(rows, p["passes"]) for p in rows[0]["curve"]]))
    title = f"Held-out error by passes, own best rates: {one.cell.name}"
    return lines_figure(title, "forward and backward passes", "error", lines)


def _point(rows: Sequence[dict[str, Any]], passes: int) -> tuple[float, float, float, float]:
    found = student([error_of(row, HALVES[1], passes) for row in rows])
    return passes, found.value, found.low, found.high


def _rates(one: Finished) -> str:
    lines = []
    for arm in one.cell.arms:
        of = [row for row in one.runs.rows if row["arm"] == arm and row["seed"] < one.runs.choosing]
        points = [
            (lr, fmean(error_of(row, HALVES[0]) for row in of if row["lr"] == lr), float("nan"), float("nan"))
            for lr in sorted({row["lr"] for row in of})
        ]
        if points:
            lines.append(Line(arm, points))
    title = f"Choosing a rate: {one.cell.name}"
    return lines_figure(title, "learning rate", "error, choosing seeds and half", lines, logarithmic=True)


def _write_data(finished: Sequence[Finished], folder: Path) -> None:
    keys = ("steps", "slices", "cosine", "update_cosine", "signal", "efficiency", "moved", "retention")
    seen = ("frechet_whole", "frechet_slices", "copied", "seconds")
    pairs = [name for row in finished[0].runs.rows[:1] for name in row["conflict"]]
    rows = [row for one in finished for row in one.runs.rows]
    write_csv(
        folder / "runs.csv",
        ["cell", "arm", "lr", "seed", *keys, *seen, *pairs],
        [
            [row["cell"], row["arm"], row["lr"], row["seed"]]
            + [f"{row[key]:.6g}" for key in (*keys, *seen)]
            + [f"{row['conflict'].get(name, float('nan')):.6g}" for name in pairs]
            for row in rows
        ],
    )
    places = [f"{level} {noise}" for level in LEVELS for noise in NOISE_LEVELS]
    write_csv(
        folder / "errors.csv",
        ["cell", "arm", "lr", "seed", "passes", "half", *places],
        [
            [row["cell"], row["arm"], row["lr"], row["seed"], point["passes"], half]
            + [f"{value:.5f}" for line in point[half] for value in line]
            for row in rows
            for point in row["curve"]
            for half in HALVES
        ],
    )


def _how(study: Study, finished: Sequence[Finished]) -> list[str]:
    size, runs = study.size, sum(len(one.runs.rows) for one in finished)
    hours = sum(row["seconds"] for one in finished for row in one.runs.rows) / 3600
    return [
        "## How it was made",
        "",
        f"    python -m tests.bench.evidence OUT --size {size.name}",
        f"    python -m tests.bench.evidence OUT --size {size.name} --page examples/evidence",
        "",
        f"{runs} runs of {size.passes[-1]} passes of {size.batch_size} pictures, {hours:.1f} hours in all, "
        f"{size.models} models side by side, on {platform.machine()}, {study.device}, sga_kohya {__version__}. A stopped "
        "study goes on where it was; `--size gpu` is the same on one card, with more seeds, more arms and both models at "
        "24 pixels.",
        "",
        f"A model has {size.width} channels ({', '.join(size.width)}); its pictures have 24 pixels a side, "
        + (f"the U-Net's {24 // size.pool['unet']}. " if size.pool["unet"] > 1 else "")
        + f"It was pretrained for {size.pretraining} steps of 32 crops of wallpapers (plasma-workspace-wallpapers, "
        "gnome-backgrounds, mate-backgrounds) and fine-tuned on "
        f"{size.train_photos} drawings (openclipart-png) or photographs on white (tuxpaint-stamps-default), whose slices "
        "H-SD cut; all others are held out, a half to choose by and a half to report by. AdamW, no warm-up, norms clipped "
        f"at 1. Rates: the first {size.choosing} seeds run the grid; the rate of least error on the choosing half is the "
        "arm's, and a grid whose best rate is its end is extended twice at most. The same captions for siblings, as H-SD "
        "writes them. All in [runs.csv](runs.csv) and [errors.csv](errors.csv).",
    ]
