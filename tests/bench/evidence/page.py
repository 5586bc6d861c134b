"""Stage 6: README.md with a figure a claim, and the data as CSV. The words are in page.md."""

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import jinja2

from sga_kohya.kit.files import write_csv, write_whole
from sga_kohya.kit.intervals import Interval, student
from tests.bench.evidence import verdicts
from tests.bench.evidence.corpora import LEVELS
from tests.bench.evidence.figures import Line, intervals_figure, lines_figure
from tests.bench.evidence.measures import HALVES, NOISE_LEVELS
from tests.bench.evidence.study import CELLS, STOCK, Cell, Study, error_of
from tests.bench.evidence.verdicts import Claim, Comparison, Row, Runs

FIGURES = {1: "damping", 2: "modulation", 3: "slices", 4: "faster", 5: "parts"}
KEPT = (("retention", ".4f"), ("frechet_whole", ".1f"), ("frechet_slices", ".1f"), ("copied", ".2f"))
NOTES = "notes.md"
"""Beside the page: what its authors make of these very runs."""
NONE = float("nan")


@dataclass(frozen=True)
class Finished:
    cell: Cell
    runs: Runs

    def rows(self, arm: str, own: bool = True) -> list[Row]:
        return list(self.runs.at(arm, own).values())

    @property
    def arms(self) -> list[str]:
        return [arm for arm in self.cell.arms if self.rows(arm)]


def write_page(study: Study, folder: Path) -> list[Claim]:
    """Everything that is known of the cells with runs."""
    finished = [Finished(cell, Runs(study.rows(cell), study.size.choosing)) for cell in CELLS if study.rows(cell)]
    dit, unet = (
        next((one.runs for one in finished if one.cell.model == kind), Runs([], 1)) for kind in ("dit", "unet")
    )
    found = verdicts.claims(dit, unet, *study.size.passes[-2:])
    folder.mkdir(parents=True, exist_ok=True)
    for claim in found:
        title = f"{claim.number}. {claim.title}: {claim.verdict}"
        write_whole(folder / f"{FIGURES[claim.number]}.svg", intervals_figure(title, _of_one_kind(claim.comparisons)))
    for number, one in enumerate(finished):
        write_whole(folder / f"curves-{number}.svg", _curves(one))
        write_whole(folder / f"rates-{number}.svg", _rates(one))
    _write_data(finished, folder)
    write_whole(folder / "README.md", _readme(study, finished, found, folder / NOTES))
    return found


def _of_one_kind(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Those in the measure of the first: cosines and percent have no axis in common."""
    percent = comparisons[0].margin == verdicts.MARGIN
    return [one for one in comparisons if (one.margin == verdicts.MARGIN) == percent]


def _readme(study: Study, finished: Sequence[Finished], found: Sequence[Claim], notes: Path) -> str:
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    rows = [row for one in finished for row in one.runs.rows]
    text = environment.from_string((Path(__file__).parent / "page.md").read_text(encoding="utf-8")).render(
        claims=found,
        figures=FIGURES,
        difference=_difference,
        margin=f"{verdicts.MARGIN:g}",
        cosine_margin=f"{verdicts.COSINE_MARGIN:g}",
        grounds=[
            {"name": one.cell.name, "learned": _learned(one), "kept": _kept(one), "conflict": _conflict(one)}
            for one in finished
        ],
        notes=notes.read_text(encoding="utf-8").strip() if notes.is_file() else "",
        size=study.size,
        runs=len(rows),
        hours=sum(row["seconds"] for row in rows) / 3600,
        machine=f"{study.device} ({platform.machine()})",
    )
    return text.rstrip() + "\n"


def _difference(one: Comparison) -> str:
    spec = "+.3f" if one.margin < 0.1 else "+.2f"
    return f"{one.found.value:{spec}} {one.found.brackets(spec)}" if one.found.known else "not run"


def _learned(one: Finished) -> list[list[str]]:
    error = verdicts.error()
    return [
        [
            arm,
            f"{one.runs.best[arm]:g}",
            _between(one, arm),
            str(len(one.rows(arm))),
            f"{fmean(map(error, one.rows(arm))):.4f}",
            *("" if arm == STOCK else _against_stock(one.runs, arm, own) for own in (True, False)),
            *(_mean(one.rows(arm, own=False), key, ".3f") for key in ("cosine", "efficiency")),
        ]
        for arm in one.arms
    ]


def _against_stock(runs: Runs, arm: str, own: bool) -> str:
    values = runs.differences(arm, STOCK, verdicts.error(), own, relative=True)
    found = student(values) if values else Interval(NONE)
    return f"{found.value:+.2f} {found.brackets('+.2f')}"


def _kept(one: Finished) -> list[list[str]]:
    return [[arm, *(_mean(one.rows(arm), key, spec) for key, spec in KEPT)] for arm in one.arms]


def _mean(rows: Sequence[Row], key: str, spec: str) -> str:
    found = student([float(row[key]) for row in rows]) if rows else Interval(NONE)
    return f"{found.value:{spec}} {found.brackets(spec)}"


def _conflict(one: Finished) -> str:
    """How much there is to damp: cosines between the granularities' gradients, where stock practice ends."""
    rows = one.rows(STOCK, own=False)
    names = [name for name in (rows[0]["conflict"] if rows else {}) if name.startswith("cosine/")]
    pairs = ((name.removeprefix("cosine/"), student([row["conflict"][name] for row in rows])) for name in names)
    return ", ".join(f"{name} {found.value:.2f} {found.brackets('.2f')}" for name, found in pairs)


def _curves(one: Finished) -> str:
    lines = [
        Line(arm, [_point(one.rows(arm), point["passes"]) for point in one.rows(arm)[0]["curve"]]) for arm in one.arms
    ]
    return lines_figure(f"Held-out error by passes: {one.cell.name}", "forward and backward passes", "error", lines)


def _point(rows: Sequence[Row], passes: int) -> tuple[float, float, float, float]:
    """Without intervals, which would show how seeds differ, and not arms."""
    return passes, fmean(error_of(row, HALVES[1], passes) for row in rows), NONE, NONE


def _grid(one: Finished, arm: str) -> dict[float, float]:
    """Error on the choosing half by rate, the mean of the choosing seeds, where all of them ran."""
    found: dict[float, list[float]] = {}
    for row in one.runs.rows:
        if row["arm"] == arm and row["seed"] < one.runs.choosing:
            found.setdefault(row["lr"], []).append(error_of(row, HALVES[0]))
    return {lr: fmean(errors) for lr, errors in sorted(found.items()) if len(errors) == one.runs.choosing}


def _between(one: Finished, arm: str) -> str:
    rate = verdicts.optimum(_grid(one, arm))
    return f"{rate:.1e}" if math.isfinite(rate) else "at the grid's end"


def _rates(one: Finished) -> str:
    lines = [Line(arm, [(lr, error, NONE, NONE) for lr, error in _grid(one, arm).items()]) for arm in one.arms]
    return lines_figure(f"Choosing a rate: {one.cell.name}", "learning rate", "error", lines, logarithmic=True)


def _write_data(finished: Sequence[Finished], folder: Path) -> None:
    rows = [row for one in finished for row in one.runs.rows]
    identity = ("cell", "arm", "lr", "seed")
    numbers = [name for name, value in rows[0].items() if isinstance(value, int | float) and name not in identity]
    pairs = list(rows[0]["conflict"])
    header = [*identity, *numbers, *pairs]
    write_csv(folder / "runs.csv", header, [_figures(row, identity, numbers, pairs) for row in rows])
    places = [f"{level} {noise}" for level in LEVELS for noise in NOISE_LEVELS]
    write_csv(
        folder / "errors.csv",
        [*identity, "passes", "half", *places],
        [
            [*(row[key] for key in identity), point["passes"], half]
            + [f"{value:.5f}" for line in point[half] for value in line]
            for row in rows
            for point in row["curve"]
            for half in HALVES
        ],
    )


def _figures(row: dict[str, Any], identity: Sequence[str], numbers: Sequence[str], pairs: Sequence[str]) -> list[Any]:
    own = [f"{row[name]:.6g}" for name in numbers] + [f"{row['conflict'].get(name, NONE):.4g}" for name in pairs]
    return [*(row[key] for key in identity), *own]
