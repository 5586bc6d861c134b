"""Write report.html, report.md, results.csv and a PNG for each kind of rater, from what the other commands left."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.measure import metrics
from sga_kohya.evaluate.measure.metrics import Scores, metric_intervals
from sga_kohya.evaluate.plan.plan import Cell, Dataset, Plan
from sga_kohya.evaluate.rate import judge as judges
from sga_kohya.evaluate.rate import study
from sga_kohya.evaluate.rate.analysis import (
    Ranked,
    analyse,
    judge_human_agreement,
    reliability,
    without_inattentive,
)
from sga_kohya.evaluate.report import sections
from sga_kohya.evaluate.report.charts import save_figure
from sga_kohya.evaluate.report.sections import Grid, Section
from sga_kohya.evaluate.sample.images import all_images, load
from sga_kohya.kit.files import write_csv, write_whole
from sga_kohya.kit.intervals import Interval
from sga_kohya.kit.page import data_uri, render


def write_report(plan: Plan) -> Path:
    """Returns report.html's path. Raises SgaError when there is nothing to report."""
    scores, asked = metrics.read(plan), judges.read(plan)
    rated, raters = without_inattentive(plan, study.read(plan))
    judged, ranked = analyse(plan, asked), analyse(plan, rated)
    if scores is None and judged is None and ranked is None:
        raise SgaError(f"{plan.out} has nothing to report yet: run `metrics`, `judge` or `human` with this plan first")
    found = [sections.setup(plan)]
    results: dict[str, Ranked] = {}
    if scores:
        found.append(sections.metrics_section(plan, scores))
    if judged:
        results["judge"] = judged
        sentences = sections.judge_sentences(asked[0].rater, reliability(plan, asked), len(plan.variants))
        found.append(sections.ranking_section(plan, "judge", "Model judge (Fig. 9)", judged, sentences))
    if ranked:
        results["human"] = ranked
        sentences = sections.human_sentences(raters)
        found.append(sections.ranking_section(plan, "human", "Human raters (Fig. 10)", ranked, sentences))
    if agreed := judge_human_agreement(plan, asked, rated):
        sentence = (
            f"Judge and raters order {sections.percent(agreed[0])} of the pairs alike, on {agreed[1]} shared trials."
        )
        found.append(Section("agreement", "Agreement of judge and raters", [sentence]))
    found += [section for section in (sections.efficiency(plan, results), sections.ablation(plan, results)) if section]
    plan.out.mkdir(parents=True, exist_ok=True)
    for section in found:
        if section.ranked:
            save_figure(plan, section.title, section.ranked, plan.out / section.figure)
    write_csv(plan.out / "results.csv", CSV_HEADER, list(csv_rows(plan, scores, results)))
    write_whole(plan.out / "report.md", markdown(plan, found))
    write_whole(plan.out / "report.html", page(plan, found))
    return plan.out / "report.html"


CSV_HEADER = ["source", "measure", "dataset", "variant", "value", "low", "high"]


def csv_rows(plan: Plan, scores: Scores | None, results: dict[str, Ranked]) -> Iterator[list]:
    """One number a line; an empty dataset means all of them."""

    def lines(source: str, measure: str, dataset: str, row: Sequence[Interval]) -> Iterator[list]:
        for name, number in zip(plan.variant_names, row, strict=True):
            yield [source, measure, dataset, name, number.value, number.low, number.high]

    if scores:
        for column in scores.columns:
            yield from lines("metrics", column, "", metric_intervals(plan, scores.values[column]))
    for source, ranked in results.items():
        for place in range(len(plan.variants)):
            yield from lines(source, f"place {place + 1}", "", [row[place] for row in ranked.shares])
        for dataset, row in ranked.heat.items():
            yield from lines(source, "place 1", dataset, row)
        for dimension, row in ranked.dimensions.items():
            yield from lines(source, f"place 1 in {dimension}", "", row)
        yield from lines(source, "log-worth", "", ranked.worth)
        for place, name in enumerate(plan.variant_names):
            yield from lines(source, f"beats {name}", "", [row[place] for row in ranked.wins])


def markdown(plan: Plan, found: Sequence[Section]) -> str:
    parts = [f"# {plan.title}"]
    for section in found:
        parts += [
            f"## {section.title}",
            *section.sentences,
            *(f"**Warning:** {warning}" for warning in section.warnings),
        ]
        parts += [f"![{section.title}]({section.figure})"] if section.figure else []
        parts += [_markdown_table(table) for table in section.tables]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Grid) -> str:
    rows = [table.header, ["---"] * len(table.header), *table.rows]
    return f"**{table.caption}**\n\n" + "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows
    )


def page(plan: Plan, found: Sequence[Section]) -> str:
    """Self-contained: styles and pictures are in the file."""
    return render(__package__, "page.html", plan=plan, sections=found, samples=samples(plan), split=_split)


def _split(cell: str) -> tuple[str, str]:
    """A number, and its interval, which is set in small print, without brackets; "" where there is none."""
    value, _, interval = cell.partition(" [")
    inside, _, after = interval.partition("]")
    return value + after, inside


def samples(plan: Plan) -> list[tuple[Dataset, list[tuple[str, str]]]]:
    """Of each dataset labels and pictures: the first prompt with the first seed, beside a reference.

    Empty when images are not there.
    """
    try:
        files = all_images(plan)
    except SgaError:
        return []
    return [
        (
            dataset,
            [
                ("reference", _thumbnail(dataset.references[0])),
                *((v.label, _thumbnail(files[Cell(dataset.name, v.name, 0, plan.seeds[0])])) for v in plan.variants),
            ],
        )
        for dataset in plan.datasets
    ]


def _thumbnail(path: Path, side: int = 256) -> str:
    image = load(path)
    image.thumbnail((side, side))
    return data_uri(image, "JPEG", quality=85)
