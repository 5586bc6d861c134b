"""The report: its numbers agree in HTML, Markdown and CSV, and with what the ballots say."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import toml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.__main__ import main
from sga_kohya.evaluate.measure.metrics import Scores, save
from sga_kohya.evaluate.plan.plan import Dataset, Human, Plan, Variant
from sga_kohya.evaluate.plan.plan_file import read_plan
from sga_kohya.evaluate.rate.analysis import (
    alpha_of,
    analyse,
    judge_human_agreement,
    reliability,
    without_inattentive,
    worth_intervals,
)
from sga_kohya.evaluate.rate.ballots import Ballot, all_trials
from sga_kohya.evaluate.rate.judge import ballots_file
from sga_kohya.evaluate.rate.judge import read as judge_read
from sga_kohya.evaluate.rate.panel import Panel
from sga_kohya.evaluate.rate.ranking import krippendorff_alpha
from sga_kohya.evaluate.rate.study import Log, items_for
from sga_kohya.evaluate.report.charts import save_figure
from sga_kohya.evaluate.report.report import page, write_report
from sga_kohya.evaluate.report.sections import Grid, Section, setup

from .evaluate_browser import chromium
from .evaluate_world import write_plan
from .pages import HOSTILE, assert_stays_text, taken_apart

for library in ("matplotlib",):
    pytest.importorskip(library, reason="the report needs it; pip install 'sga-kohya[evaluate]'")

NAMES = ("baseline-1.0", "baseline-1.5", "sga-1.0", "sga-1.5")
# Which variant comes how far forward, in the mean.
WORTH = {"baseline-1.0": 0.0, "baseline-1.5": 0.5, "sga-1.0": 1.5, "sga-1.5": 1.2}


def draw(generator, names) -> tuple[int, ...]:
    noisy = [WORTH.get(name, 0) + generator.gumbel() for name in names]
    return tuple(1 + sum(other > own + 0.05 for other in noisy) for own in noisy)


@pytest.fixture
def evaluated(tmp_path):
    """A plan with metrics, a judge's and three raters' answers."""
    path = write_plan(tmp_path, NAMES, ("alpha", "beta"), paper="flux", title="A <b> & B")
    values = toml.loads(path.read_text())
    for variant in values["variants"]:
        role, _, budget = variant["name"].partition("-")
        variant |= {"role": role, "budget": float(budget), "label": f"{role.upper()} ({budget} <N1>)"}
    path.write_text(toml.dumps(values))
    plan, generator = read_plan(path), np.random.default_rng(0)
    cells = [cell for variant in plan.variants for dataset in plan.datasets for cell in plan.cells(variant, dataset)]
    columns = ("CLIP-I", "CLIP-T", "DINO-I")
    numbers = {
        column: {c: 0.5 + 0.05 * WORTH[c.variant] + 0.02 * generator.random() for c in cells} for column in columns
    }
    save(plan, Scores(columns, numbers, ((cells[0], "r0.png", 3),), ({"column": "CLIP", "model": "m", "class": "C"},)))
    ballots = []
    for kind in ("main", "repeat", "reorder"):
        for trial in all_trials(plan)[:: 1 if kind == "main" else 4]:
            order = tuple(generator.permutation(NAMES).tolist())
            ranks = {name: draw(generator, order) for name in ("overall", "geometry")}
            ballots.append(Ballot("tiny-judge", kind, trial, order, ranks))
    ballots.append(Ballot("tiny-judge", "control", all_trials(plan)[0], (NAMES[0],) * 4, {"overall": (1, 1, 1, 1)}))
    ballots_file(plan).parent.mkdir(parents=True)
    ballots_file(plan).write_text("".join(f"{json.dumps(ballot.to_json())}\n" for ballot in ballots))
    log = Log(plan)
    for rater in ("ann", "bob", "cat"):
        log.consent(rater)
        for item in items_for(plan, rater):
            ranks = (
                tuple(1 + int(name[-1]) for name in item.order)
                if item.kind == "attention"
                else draw(generator, item.order)
            )
            log.answer(rater, item, ranks, 2.0)
    log.close()
    return path


def test_html_markdown_and_csv_say_the_same(evaluated, capsys):
    assert main(["report", str(evaluated)]) == 0
    plan = read_plan(evaluated)
    page = (plan.out / "report.html").read_text()
    assert capsys.readouterr().out.strip() == str(plan.out / "report.html")
    markdown = (plan.out / "report.md").read_text()
    with (plan.out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))

    for source in ("judge", "human"):
        first = {
            r["variant"]: r for r in rows if r["source"] == source and r["measure"] == "place 1" and not r["dataset"]
        }
        assert sum(float(row["value"]) for row in first.values()) == pytest.approx(1)
        assert max(first, key=lambda name: float(first[name]["value"])).startswith("sga")
        row = first["sga-1.0"]
        value, low, high = (round(100 * float(row[key])) for key in ("value", "low", "high"))
        assert f"| SGA (1.0 <N1>) | {value} % [{low}, {high}] |" in markdown
        assert f'{value} % <span class="interval">[{low}, {high}]</span>' in page
    assert "Paper: baseline" in page and "0.686" in markdown and "40 % for SGA at 1.0 N1" in page
    assert "near-copies of references" in page and "Efficiency" in markdown
    assert "A &lt;b&gt; &amp; B" in page and "<N1>" not in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    for name in ("judge.png", "human.png"):
        assert Image.open(plan.out / name).size[0] > 1000
    assert not list(plan.out.rglob("*.partial"))


def test_titles_labels_and_prompts_stay_text(evaluated):
    plan, pages = read_plan(evaluated), []
    for words in (HOSTILE, "harmless"):
        variants = tuple(replace(variant, label=f"{words}{variant.name}") for variant in plan.variants)
        datasets = tuple(replace(dataset, prompts=(words, *dataset.prompts[1:])) for dataset in plan.datasets)
        changed = replace(plan, title=words, variants=variants, datasets=datasets)
        # What was measured and answered belongs to the plan as it was; only the page is asked for what it shows.
        ranked = analyse(plan, judge_read(plan))
        grid = Grid(words, [words, words], [[words, words], [words, f"{words} [{words}]"]])
        shown = Section("judge", words, [words], [grid], "judge.png", ranked, [words])
        pages.append(page(changed, [setup(changed), shown]))
    assert_stays_text(*pages)
    assert "samples" in pages[0] and sum(part.count(HOSTILE) for part in taken_apart(pages[0]).words) > 20


def test_the_difference_of_table_1_is_that_of_the_means(evaluated):
    main(["report", str(evaluated)])
    plan = read_plan(evaluated)
    line = next(x for x in (plan.out / "report.md").read_text().splitlines() if x.startswith("| CLIP-I |"))
    _, _, baseline, sga, difference, *paper = (cell.strip() for cell in line.split("|"))
    assert float(sga.split()[0]) - float(baseline.split()[0]) == pytest.approx(float(difference.split()[0]), abs=0.0011)
    assert difference.endswith("↑") and paper[:2] == ["0.686", "0.701"]


def test_the_page_opens_in_chromium_and_fits_a_phone(evaluated, tmp_path):
    main(["report", str(evaluated)])
    with chromium(tmp_path) as page:
        for width, dark in ((1200, False), (390, True)):
            page.size(width, 900, dark)
            page.open((read_plan(evaluated).out / "report.html").as_uri())
            assert page.run("document.documentElement.scrollWidth <= innerWidth")
        assert page.run("document.querySelectorAll('section').length") >= 6
        assert page.complaints == []


def test_nothing_to_report_and_a_changed_plan_are_said(evaluated, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    assert main(["report", str(write_plan(other))]) == 2
    assert "nothing to report yet" in capsys.readouterr().err
    values = toml.loads(evaluated.read_text())
    values["seeds"] = [1]
    evaluated.write_text(toml.dumps(values))
    assert main(["report", str(evaluated)]) == 2
    assert "is of another plan: run `metrics` again" in capsys.readouterr().err


def test_table_2_stands_beside_the_papers(evaluated):
    plan = read_plan(evaluated)
    roles = ("full", "without_tuples", "without_modulation", "")
    plan = replace(plan, variants=tuple(replace(v, role=r) for v, r in zip(plan.variants, roles, strict=True)))
    write_report(plan)
    markdown = (plan.out / "report.md").read_text()
    assert "**First-place rate**\n\n| Variant | Judge | Paper: judge | Human | Paper: human |" in markdown
    table = markdown[markdown.index("Ablation (Table 2)") :]
    assert [re.findall(r"\| (\d\d) % \|", row) for row in table.splitlines() if "%" in row] == [
        ["55", "54"],
        ["25", "27"],
        ["20", "19"],
    ]


def small_plan(variants: int, prompts: int) -> Plan:
    names = [f"v{number}" for number in range(variants)]
    datasets = tuple(Dataset(name, tuple(map(str, range(prompts))), ()) for name in ("a", "b"))
    made = tuple(Variant(name, name) for name in names)
    return Plan("t", None, (1, 2), datasets, made, bootstrap=100, human=Human())


@settings(deadline=None, max_examples=10)
@given(st.integers(2, 4), st.integers(1, 3), st.data())
def test_rates_sum_to_one_and_follow_the_order_of_variants(variants, prompts, data):
    plan = small_plan(variants, prompts)
    ranks = st.tuples(*[st.integers(1, variants)] * variants)
    ballots = [
        Ballot("r", "main", trial, tuple(data.draw(st.permutations(plan.variant_names))), {"overall": data.draw(ranks)})
        for trial in all_trials(plan)
    ]
    ranked = analyse(plan, ballots)
    shares = np.array([[number.value for number in row] for row in ranked.shares])
    assert np.allclose(shares.sum(axis=0), 1) and np.allclose(shares.sum(axis=1), 1)
    assert all(sum(number.value for number in row) == pytest.approx(1) for row in ranked.heat.values())
    wins = np.array([[number.value for number in row] for row in ranked.wins])
    assert np.allclose(wins + wins.T, 1)
    assert all(
        number.low <= number.value + 1e-9 and number.value - 1e-9 <= number.high
        for number in ranked.first
        if number.bounded
    )

    turned = replace(plan, variants=plan.variants[::-1])
    assert np.allclose([n.value for n in analyse(turned, ballots).first], [n.value for n in ranked.first][::-1])


def test_identical_images_that_are_called_ties_give_every_variant_its_chance():
    plan = small_plan(4, 3)
    tie = {"overall": (1, 1, 1, 1)}
    ranked = analyse(plan, [Ballot("r", "main", trial, plan.variant_names, tie) for trial in all_trials(plan)])
    assert {(n.value, n.low, n.high) for n in ranked.first} == {(0.25, 0.25, 0.25)}
    assert [n.value for n in ranked.worth] == pytest.approx([0, 0, 0, 0], abs=1e-9)


def test_judge_and_raters_who_rank_alike_agree_wholly():
    plan = small_plan(3, 2)
    ours = [Ballot("j", "main", t, ("v0", "v1", "v2"), {"overall": (1, 2, 3)}) for t in all_trials(plan)]
    theirs = [Ballot("r", "main", t, ("v2", "v1", "v0"), {"overall": (3, 2, 1)}, 1.0) for t in all_trials(plan)[:3]]
    found, trials = judge_human_agreement(plan, ours, theirs)
    assert (found.value, trials) == (1, 3)
    assert judge_human_agreement(plan, ours, []) is None
    reverse = [replace(ballot, ranks={"overall": (1, 2, 3)}) for ballot in theirs]
    assert judge_human_agreement(plan, ours, reverse)[0].value == 0
    _, raters = without_inattentive(plan, [*theirs, *(replace(ballot, rater="s") for ballot in theirs)])
    assert raters.alpha.value == pytest.approx(1)
    assert isinstance(SgaError("x"), ValueError)


@pytest.mark.parametrize("label", ["$", "$x^", "a $\\frac{$ b", "100 $ and 200 $", "_hidden", "50 % {}", "a\nb"])
def test_a_label_of_any_characters_is_drawn_as_it_is_written(tmp_path, label):
    """matplotlib takes what stands between two `$` for mathematics."""
    variants = tuple(Variant(name, f"{label} {name}") for name in ("a", "b"))
    dataset = Dataset(label, ("p",), ())
    plan = Plan("t", tmp_path, (1, 2), (dataset,), variants, bootstrap=100)
    ballots = [Ballot("m", "main", trial, ("a", "b"), {"overall": (1, 2)}) for trial in all_trials(plan)]
    save_figure(plan, f"{label} (Fig. 9)", analyse(plan, ballots), tmp_path / "figure.png")
    assert Image.open(tmp_path / "figure.png").size[0] > 500


def test_alpha_is_of_mid_ranks():
    """Two raters: 1, 1, 2 and 1, 2, 3. As mid-ranks 1.5, 1.5, 3 they agree on who is last; as raw ranks they do not."""
    plan = small_plan(3, 2)
    pairs = [("r", (1, 1, 2)), ("s", (1, 2, 3))]
    ballots = [
        Ballot(r, "main", t, plan.variant_names, {"overall": ranks}) for t in all_trials(plan) for r, ranks in pairs
    ]
    ratings = np.array([[1.5, 1.5, 3] * 8, [1.0, 2, 3] * 8])
    raw = np.array([[1.0, 1, 2] * 8, [1.0, 2, 3] * 8])
    found = alpha_of(plan, ballots).value
    assert found == pytest.approx(krippendorff_alpha(ratings)) and found > krippendorff_alpha(raw) + 0.1


def test_intervals_of_worth_hold_the_scatter_of_prompts():
    """Each prompt is wholly for one variant: 40 equal ballots of a prompt say no more than one."""
    plan = replace(small_plan(2, 8), seeds=tuple(range(40)), bootstrap=400)
    ballots = [
        Ballot("r", "main", t, plan.variant_names, {"overall": (1, 2) if t.prompt % 4 else (2, 1)})
        for t in all_trials(plan)
    ]
    one = replace(plan, seeds=(0,))
    few = [ballot for ballot in ballots if ballot.trial.seed == 0]
    wide, narrow = (worth_intervals(Panel(p, b))[0] for p, b in ((plan, ballots), (one, few)))
    assert wide.high - wide.low > 0.6 and wide.low < wide.value < wide.high
    assert wide.high - wide.low == pytest.approx(narrow.high - narrow.low, rel=0.3)


def test_agreement_positions_and_consistency_have_intervals(evaluated):
    main(["report", str(evaluated)])
    text = (read_plan(evaluated).out / "report.md").read_text()
    bracket = r"\[-?[\d.]+, -?[\d.]+\]"
    assert re.search(rf"Krippendorff's alpha \(ordinal\): -?[\d.]+ {bracket}", text)
    assert re.search(rf"themselves on \d+ % {bracket} of the pairs", text)
    assert re.search(
        rf"Of the pairs of pictures, \d+ % {bracket} were ordered alike .* \d+ % {bracket} when it was", text
    )
    assert re.search(rf"by position: A \d+ % {bracket}, B \d+ % {bracket}", text)
    assert re.search(rf"Judge and raters order \d+ % {bracket} of the pairs", text)
    assert "for these data sets" in text and "also other raters" in text


def test_the_interval_of_positions_says_whether_the_judge_favours_one():
    plan = replace(small_plan(2, 12), bootstrap=400)
    first = [Ballot("j", "main", t, plan.variant_names, {"overall": (1, 2)}) for t in all_trials(plan)]
    turns = [replace(b, ranks={"overall": (1, 2) if b.trial.prompt % 2 else (2, 1)}) for b in first]
    biased = [a if place % 6 else b for place, (a, b) in enumerate(zip(first, turns, strict=True))]
    assert reliability(plan, biased).positions[0].excludes(0.5)
    assert not reliability(plan, turns).positions[0].excludes(0.5)
