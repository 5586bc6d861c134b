"""Stage 6: README.md with a figure a claim, and the data as CSV. The words are in page.md."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import jinja2

from sga_kohya.kit.files import write_csv, write_whole
from sga_kohya.kit.intervals import Interval, student
from tests.bench.evidence import verdicts
from tests.bench.evidence.arms import ARMS
from tests.bench.evidence.corpora import LEVELS
from tests.bench.evidence.figures import Line, intervals_figure, lines_figure
from tests.bench.evidence.measures import HALVES, NOISE_LEVELS
from tests.bench.evidence.study import CELLS, STOCK, Cell, Study, error_of
from tests.bench.evidence.verdicts import Claim, Comparison, Row, Runs

FIGURES = {1: "damping", 2: "modulation", 3: "slices", 4: "faster", 5: "parts"}
KEPT = (("retention", ".4f"), ("frechet_whole", ".1f"), ("frechet_slices", ".1f"), ("copied", ".2f"))
NOTES = "notes.md"
"""Beside the page: what its authors make of these very runs."""
IDENTITY = ("cell", "arm", "lr", "seed")
NONE = float("nan")
MARKS = {verdicts.SUPPORTED: "✓", verdicts.NOT_SUPPORTED: "✗", verdicts.NOT_DECIDED: "?"}


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
        figure = intervals_figure(f"{claim.number}. {claim.title}", claim.verdict, _of_one_kind(claim.comparisons))
        write_whole(folder / f"{FIGURES[claim.number]}.svg", figure)
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
            {
                "name": one.cell.name,
                "seeds": _seeds(one),
                "learned": _learned(one),
                "kept": _kept(one),
                "conflict": _conflict(one),
            }
            for one in finished
        ],
        everywhere=_everywhere(study, finished),
        scale=any(one.cell.scale for one in finished),
        marks=MARKS,
        notes=notes.read_text(encoding="utf-8").strip() if notes.is_file() else "",
        size=study.size,
        runs=len(rows),
        machines=_machines(rows),
    )
    return text.rstrip() + "\n"


def _everywhere(study: Study, finished: Sequence[Finished]) -> list[dict[str, Any]]:
    """Claims 1 to 4 on each ground by itself: of a claim its title, a verdict a ground, and a line for each comparison
    in percent of error and for each cosine that a verdict needs. Never a mean over grounds: those on drawings share
    their photos, seed for seed."""
    grounds = [verdicts.claims_of(one.runs, *study.size.passes[-2:]) for one in finished]
    return [
        {
            "title": f"{claims[0].number}. {claims[0].title}",
            "verdicts": [claim.verdict for claim in claims],
            "lines": [[words, *(_on_ground(words, claim) for claim in claims)] for words in _shown(claims)],
        }
        for claims in zip(*grounds, strict=True)
    ]


def _shown(claims: Sequence[Claim]) -> list[str]:
    """A ground without an arm may lack a comparison that others have."""
    found = [one for claim in claims for one in claim.comparisons if one.needed or one.margin == verdicts.MARGIN]
    return list(dict.fromkeys(one.words for one in found))


def _on_ground(words: str, claim: Claim) -> str:
    """Short, for many columns."""
    one = next((one for one in claim.comparisons if one.words == words and one.seeds), None)
    return f"{MARKS[one.verdict]} {_written(one.found, '.2f')}" if one else ""


def _seeds(one: Finished) -> str:
    """Of the reported runs; fewer than planned where a study is still under way."""
    counts = sorted({len(one.rows(arm)) for arm in one.arms})
    return " to ".join(map(str, [counts[0], *counts[1:][-1:]]))


def _machines(rows: Sequence[Row]) -> str:
    """How many runs each machine made, and how long they took it."""
    seconds: dict[str, list[float]] = {}
    for row in rows:
        seconds.setdefault(row.get("device", "a machine that was not noted"), []).append(row["seconds"])
    return "; ".join(f"{len(of)} on {name}, {sum(of) / 60:.0f} minutes" for name, of in seconds.items())


def _difference(one: Comparison) -> str:
    spec = "+.3f" if one.margin < 0.1 else "+.2f"
    return _written(one.found, spec) if one.found.known else "not run"


def _written(found: Interval, spec: str) -> str:
    """With no-break spaces: in a narrow column the interval goes to a line of its own, whole."""
    return found.words(spec).replace(", ", ",\u00a0")


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
    return _written(verdicts.interval_of(values), "+.2f")


def _kept(one: Finished) -> list[list[str]]:
    return [[arm, *(_mean(one.rows(arm), key, spec) for key, spec in KEPT)] for arm in one.arms]


def _mean(rows: Sequence[Row], key: str, spec: str) -> str:
    return _written(verdicts.interval_of([float(row[key]) for row in rows]), spec)


def _conflict(one: Finished) -> str:
    """How much there is to damp: cosines between the granularities' gradients, where stock practice ends."""
    rows = one.rows(STOCK, own=False)
    names = [name for name in (rows[0]["conflict"] if rows else {}) if name.startswith("cosine/")]
    pairs = ((name.removeprefix("cosine/"), student([row["conflict"][name] for row in rows])) for name in names)
    return ", ".join(f"{name} {_written(found, '.2f')}" for name, found in pairs)


def _curves(one: Finished) -> str:
    """Without intervals, which would show how seeds differ, and not arms."""
    lines = [_line(arm, [(at, _mean_error(one.rows(arm), at)) for at in _passes(one)]) for arm in one.arms]
    return lines_figure("Held-out error by passes", one.cell.name, "forward and backward passes", lines)


def _passes(one: Finished) -> list[int]:
    return [point["passes"] for point in one.runs.rows[0]["curve"]]


def _mean_error(rows: Sequence[Row], passes: int) -> float:
    return fmean(error_of(row, HALVES[1], passes) for row in rows)


def _line(arm: str, points: Sequence[tuple[float, float]]) -> Line:
    return Line(arm, points, list(ARMS).index(arm))


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
    lines = [_line(arm, list(_grid(one, arm).items())) for arm in one.arms]
    return lines_figure(
        "Choosing a rate: held-out error", one.cell.name, "learning rate (each point twice the one before)", lines, True
    )


def _write_data(finished: Sequence[Finished], folder: Path) -> None:
    """runs.csv: a line a run. errors.csv: its held-out errors, by the run's number; of the half for choosing their mean
    alone, as nothing else of it is ever used."""
    rows = [row for one in finished for row in one.runs.rows]
    numbers = [name for name, value in rows[0].items() if isinstance(value, int | float) and name not in IDENTITY]
    pairs = list(rows[0]["conflict"])
    write_csv(
        folder / "runs.csv",
        ["run", *IDENTITY, "device", *numbers, *pairs],
        [[number, *_figures(row, numbers, pairs)] for number, row in enumerate(rows)],
    )
    places = [f"{level} {noise}" for level in LEVELS for noise in NOISE_LEVELS]
    write_csv(
        folder / "errors.csv",
        ["run", "passes", "mean to choose by", *places],
        [
            [number, point["passes"], _short(error_of(row, HALVES[0], point["passes"]))]
            + [_short(value) for line in point[HALVES[1]] for value in line]
            for number, row in enumerate(rows)
            for point in row["curve"]
        ],
    )


def _figures(row: Row, numbers: Sequence[str], pairs: Sequence[str]) -> list[Any]:
    values = [row[name] for name in numbers] + [row["conflict"].get(name, NONE) for name in pairs]
    return [*(row[key] for key in IDENTITY), row.get("device", ""), *map(_short, values)]


def _short(value: float) -> str:
    return f"{value:.4g}"
