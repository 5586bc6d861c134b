"""The report as titles, sentences, tables and figures, from which HTML and Markdown are written alike."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sga_kohya.evaluate.measure.metrics import Scores, metric_difference, metric_intervals
from sga_kohya.evaluate.plan import paper
from sga_kohya.evaluate.plan.arms import ARMS
from sga_kohya.evaluate.plan.plan import Plan
from sga_kohya.evaluate.rate.analysis import Ranked, Raters, Reliability
from sga_kohya.evaluate.rate.ballots import LETTERS
from sga_kohya.kit.intervals import Interval
from sga_kohya.kit.text import UNDEFINED, numeral

ABLATION_ROLES = ("full", "without_tuples", "without_modulation")


@dataclass(frozen=True)
class Grid:
    """A table; cells are text."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """figure: the name of a PNG beside the report, and the Ranked it shows."""

    name: str
    title: str
    sentences: Sequence[str] = ()
    tables: Sequence[Grid] = ()
    figure: str = ""
    ranked: Ranked | None = None
    warnings: Sequence[str] = field(default_factory=tuple)


def percent(interval: Interval) -> str:
    return interval.words(".0f", 100, " %")


def signed(interval: Interval) -> str:
    return interval.words("+.3f")


def share(interval: Interval | None) -> str:
    return percent(interval) if interval else "not asked"


def setup(plan: Plan) -> Section:
    datasets = [[d.name, str(len(d.prompts)), str(len(d.references))] for d in plan.datasets]
    variants = [
        [v.label, v.name, v.role or "-", f"{v.budget:g} N1" if v.role and v.budget else "-"] for v in plan.variants
    ]
    sentences = [
        f"{len(plan.variants)} variants, {len(plan.datasets)} datasets, {len(plan.seeds)} seeds a prompt. Means are "
        "taken over pairs, then seeds, prompts and datasets; variants are compared on the same prompts and seeds.",
        f"In brackets: {100 * plan.confidence:g} % intervals, by {plan.bootstrap} bootstrap resamples with percentiles "
        "expanded for few units. They are for these data sets: other prompts for each of them, and where people rank "
        "also other raters, might as well have been drawn. They do not say what another data set or another training "
        "run would give.",
        "[?] stands where there is no spread to go by: one prompt in a data set. [0, 0] says that no resample saw "
        "another outcome, not that there is none; rates near 0 or 1 of few prompts are surer of themselves than they "
        f"should be. {UNDEFINED} stands where a number is not defined, such as a rate of rankings that nobody gave.",
    ]
    tables = [
        Grid("Variants", ["Variant", "Name", "Role", "Budget"], variants),
        Grid("Datasets", ["Dataset", "Prompts", "References"], datasets),
    ]
    return Section("setup", "What was compared", sentences, tables)


def metrics_section(plan: Plan, scores: Scores) -> Section:
    by_column = {column: metric_intervals(plan, scores.values[column]) for column in scores.columns}
    rows = [
        [label, *(str(by_column[column][place]) for column in scores.columns)]
        for place, label in enumerate(plan.labels.values())
    ]
    tables = [Grid("Mean over datasets", ["Variant", *scores.columns], rows), *table_1(plan, scores, by_column)]
    tables += arms_table(plan, scores)
    models = "; ".join(f"{entry['column']}: {entry['model']} ({entry['class']})" for entry in scores.backbones)
    sentences = [f"Higher is better. {models}. A difference whose interval holds 0 is none that these data show."]
    warnings = list(scores.warnings)
    if scores.near_copies:
        total = len(scores.values[scores.columns[0]])
        cell, reference, bits = min(scores.near_copies, key=lambda entry: entry[2])
        counts = ", ".join(
            f"{plan.labels[name]} {count}"
            for name in plan.variant_names
            if (count := sum(cell.variant == name for cell, *_ in scores.near_copies))
        )
        warnings.append(
            f"{len(scores.near_copies)} of {total} images are near-copies of references ({counts}), which raises "
            f"CLIP-I and DINO-I without merit. The nearest: {cell.dataset}/{cell.variant}/{cell.file} and {reference}, "
            f"{bits} of 64 bits apart."
        )
    return Section("metrics", "Calibration metrics (Table 1)", sentences, tables, warnings=warnings)


def table_1(plan: Plan, scores: Scores, by_column: dict[str, list[Interval]]) -> Iterator[Grid]:
    """Baseline against SGA for each budget that has both, with the paper's figures if the plan asks for them."""
    published = paper.METRICS.get(plan.paper, {})
    for title, baseline, sga in _pairs(plan):
        header = ["Metric", "Baseline", "SGA", "SGA - baseline"]
        header += ["Paper: baseline", "Paper: SGA"] if published else []
        rows = []
        for column in scores.columns:
            own = [str(by_column[column][plan.variant_names.index(name)]) for name in (baseline, sga)]
            beside = [f"{x:.3f}" for x in published[column]] if column in published else ["-", "-"]
            difference = _difference(plan, scores, column, sga, baseline)
            rows.append([column, *own, difference, *(beside if published else [])])
        yield Grid(title, header, rows)


def _pairs(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """What is written above a table, and the names of a baseline and of what stands against it."""
    for budget in sorted({variant.budget for variant in plan.variants}):
        for title, *wanted in (("Baseline and SGA", "baseline", "sga"), (_RAW_AND_FULL, "raw", "full")):
            found = [variant.name for role in wanted if (variant := plan.variant(role, budget))]
            if len(found) == len(wanted):
                yield title + _at(budget), found[0], found[1]


def _at(budget: float) -> str:
    return f" at {budget:g} N1" if budget else ""


_RAW_AND_FULL = "Raw photos, the paper's baseline, and full SGA"


def arms_table(plan: Plan, scores: Scores) -> Iterator[Grid]:
    """What each arm lacks: the whole method less the arm, where the plan has the whole one and others."""
    for budget in sorted({variant.budget for variant in plan.variants}):
        full = plan.variant("full", budget)
        others = [variant for role in ARMS if role != "full" and (variant := plan.variant(role, budget))]
        if full is None or not others:
            continue
        rows = [
            [other.label, *(_difference(plan, scores, column, full.name, other.name) for column in scores.columns)]
            for other in others
        ]
        yield Grid(f"{full.label} less each other arm", ["Arm", *scores.columns], rows)


def _difference(plan: Plan, scores: Scores, column: str, first: str, second: str) -> str:
    """With an arrow where the interval has a direction."""
    difference = metric_difference(plan, scores.values[column], first, second)
    # An interval that shows as zero has none.
    clear = difference.excludes(0) and max(abs(difference.low), abs(difference.high)) >= 0.0005
    return signed(difference) + ((" ↑" if difference.low > 0 else " ↓") if clear else "")


def ranking_section(plan: Plan, name: str, title: str, ranked: Ranked, sentences: Sequence[str]) -> Section:
    labels, size = list(plan.labels.values()), len(plan.variants)
    places = [f"place {place}" for place in range(1, size + 1)]
    distribution = Grid("Rank distribution", ["Variant", *places], _rows(labels, ranked.shares))
    heat = Grid(
        "First-place rate by dataset",
        ["Dataset", *labels],
        [[dataset, *map(percent, row)] for dataset, row in ranked.heat.items()],
    )
    worth = Grid(
        "Scores",
        ["Variant", "Log-worth", *(f"first in {d}" for d in ranked.dimensions)],
        [
            [label, str(ranked.worth[place]), *(percent(firsts[place]) for firsts in ranked.dimensions.values())]
            for place, label in enumerate(labels)
        ],
    )
    pairs = _rows(labels, ranked.wins)
    for place in range(size):
        pairs[place][place + 1] = "-"
    wins = Grid("How often the row beats the column, a tie counting half", ["", *labels], pairs)
    intro = (
        f"{ranked.count} rankings. Chance would give each variant {100 / size:.0f} % of first places; a tie shares its "
        "places evenly. Log-worth is by Davidson's model: of the rankings that tell two variants apart, the share that "
        "puts the first before the second is 1 / (1 + exp(second - first)). Ties do not draw it to 0."
    )
    if name == "judge" and plan.paper in paper.FIRST_PLACES:
        sentences = [*sentences, f"The paper's judge: {paper.FIRST_PLACES[plan.paper]}."]
    return Section(name, title, [intro, *sentences], [distribution, heat, worth, wins], f"{name}.png", ranked)


def _rows(labels: Sequence[str], table: Sequence[Sequence[Interval]]) -> list[list[str]]:
    return [[label, *map(percent, row)] for label, row in zip(labels, table, strict=True)]


def judge_sentences(model: str, found: Reliability, size: int) -> list[str]:
    def positions(rates: Sequence[Interval]) -> str:
        return ", ".join(f"{letter} {percent(rate)}" for letter, rate in zip(LETTERS, rates, strict=False))

    sentences = [
        f"Judge: {model}. Of the pairs of pictures, {share(found.repeat)} were ordered alike when the same question "
        f"was asked again, {share(found.reorder)} when it was asked in another order.",
        f"First places by position: {positions(found.positions)}; without a bias each has {100 / size:.0f} %.",
    ]
    if found.control_ties is not None:
        sentences.append(
            f"It called {share(found.control_ties)} of the questions on identical pictures a tie; first places by "
            f"position there: {positions(found.control_positions)}."
        )
    return sentences


def human_sentences(raters: Raters) -> list[str]:
    alpha = raters.alpha.words(".2f") if raters.alpha else "needs two raters"
    sentences = [
        f"{len(raters.kept)} raters; {len(raters.excluded)} more failed half of the attention items or more and are "
        f"left out. Krippendorff's alpha (ordinal): {alpha}; 1 is agreement, 0 chance.",
        f"Raters agreed with themselves on {share(raters.consistency)} of the pairs of repeated items. A ranking took "
        f"{numeral(raters.seconds, '.0f')} s in the median.",
    ]
    return sentences


def efficiency(plan: Plan, results: dict[str, Ranked]) -> Section | None:
    """Section 4.4.1: SGA at 1.0 N1 against the baseline at 1.5 N1."""
    sga = plan.variant("sga", 1.0) or plan.variant("full", 1.0)
    baseline = plan.variant("baseline", 1.5) or plan.variant("raw", 1.5)
    if sga is None or baseline is None or not results:
        return None
    left, right = plan.variant_names.index(sga.name), plan.variant_names.index(baseline.name)
    rows = [[name, percent(ranked.wins[left][right])] for name, ranked in results.items()]
    sentences = [f"How often {sga.label} beats {baseline.label}, a tie counting half. The paper: {paper.EFFICIENCY}."]
    return Section(
        "efficiency", "Efficiency", sentences, [Grid("Pairwise wins", ["Rater", "SGA at 1.0 N1 wins"], rows)]
    )


def ablation(plan: Plan, results: dict[str, Ranked]) -> Section | None:
    """Table 2, where the plan's variants have its three roles."""
    variants = [variant for role in ABLATION_ROLES if (variant := plan.variant(role))]
    if len(variants) < len(ABLATION_ROLES) or not results:
        return None
    published = paper.ABLATION.get(plan.paper, {})
    header = ["Variant"]
    for rater in results:
        header += [rater.capitalize(), f"Paper: {rater}"] if published else [rater.capitalize()]
    rows = []
    for place, variant in enumerate(variants):
        row = [variant.label]
        for rater, ranked in results.items():
            row.append(percent(ranked.first[plan.variant_names.index(variant.name)]))
            row += [f"{published[rater][place]} %"] if published else []
        rows.append(row)
    return Section("ablation", "Ablation (Table 2)", (), [Grid("First-place rate", header, rows)])
