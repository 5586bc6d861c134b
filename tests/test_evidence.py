"""The study of the papers' claims: its arms, its many models at once, its stages and what it says of numbers."""

import csv
import dataclasses
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.kit.intervals import student
from sga_kohya.reference.objectives import FlowMatching, slice_losses
from sga_kohya.reference.scratch import build
from sga_kohya.tuples.step import Slice

from .bench.coverage import coverage
from .bench.evidence import corpora, ground, page, study, verdicts
from .bench.evidence.arms import ARMS, Material, sub_batches
from .bench.evidence.fleet import Fleet, Member, Trained

LEVELS = corpora.LEVELS


@pytest.fixture(scope="module")
def material():
    """Twelve photos, of which four lack their micro slice."""
    slices = [
        (Slice(0, f"{photo}/{level}", level, (24, 24)), f"group {photo}")
        for photo in range(12)
        for level in LEVELS[: 2 if photo % 3 == 0 else 3]
    ]
    return Material([f"photo {number}" for number in range(12)], slices)


def epoch_of(arm, material, batch_size=2, seed=0):
    """Steps, each a list of sub-batches, of the first epoch."""
    left = Counter(len(material.photos) if arm.steps == "photos" else len(material.slices) for _ in "1")
    steps, step, seen = [], [], 0
    wanted = next(iter(left))
    for part in sub_batches(arm, material, batch_size, seed):
        step.append(part)
        seen += len(part.keys)
        if part.last:
            steps.append(step)
            step = []
        if seen == wanted:
            return steps
    raise AssertionError


def photo_of(key):
    return key.split("/")[0]


@pytest.mark.parametrize("name", [name for name, arm in ARMS.items() if arm.small])
def test_every_arm_shows_every_picture_once_an_epoch(name, material):
    keys = Counter(key for step in epoch_of(ARMS[name], material) for part in step for key in part.keys)
    expected = material.photos if name == "raw" else [item.key for item, _ in material.slices]
    assert keys == Counter(expected)


def test_arms_on_slices_differ_in_nothing_but_what_shares_a_step(material):
    sizes = {
        name: Counter(len(part.keys) for step in epoch_of(arm, material) for part in step)
        for name, arm in ARMS.items()
        if name != "raw"
    }
    assert len({tuple(sorted(found.items())) for found in sizes.values()}) == 1
    steps = {name: Counter(map(len, epoch_of(ARMS[name], material))) for name in ("full", "accumulation", "stratified")}
    assert steps["full"] == steps["accumulation"] == steps["stratified"]
    assert Counter(map(len, epoch_of(ARMS["h-sd"], material))).keys() == {1}


def test_siblings_share_a_step_in_tuples_and_seldom_in_the_controls(material):
    def together(name):
        steps = epoch_of(ARMS[name], material)
        return sum(
            len(keys) - len({photo_of(k) for k in keys}) for keys in ([k for p in s for k in p.keys] for s in steps)
        )

    most = sum(2 if number % 3 else 1 for number in range(12))
    assert together("full") == together("without modulation") == most
    assert together("stratified") < most
    assert together("h-sd") == 0


def test_a_sub_batch_has_one_granularity_except_where_the_arm_says_mixed(material):
    for name, arm in ARMS.items():
        labels = [len(set(part.granularities)) for step in epoch_of(arm, material) for part in step]
        assert (max(labels) > 1) == (name == "h-sd mixed"), name


def test_the_stratified_control_has_the_granularities_of_a_tuple_and_the_weights_of_eq_6(material):
    for step in epoch_of(ARMS["stratified"], material):
        labels = [part.granularities[0] for part in step]
        assert sum(part.weight for part in step) == pytest.approx(1)
        assert len(set(labels)) in (2, 3)
    for step in epoch_of(ARMS["accumulation"], material):
        assert [part.weight for part in step] == pytest.approx([1 / len(step)] * len(step))


def test_modulation_is_the_papers_its_reverse_or_one_for_all():
    assert ARMS["full"].shift == {"macro": 0.5, "meso": 0.0, "micro": -0.5}
    assert ARMS["opposite"].shift == {"macro": -0.5, "meso": 0.0, "micro": 0.5}
    assert ARMS["opposite"].gamma == {
        level: ARMS["full"].gamma[turned] for level, turned in zip(LEVELS, LEVELS[::-1], strict=True)
    }
    assert set(ARMS["one common"].shift.values()) == {0.5} and ARMS["h-sd"].shift == {}


@pytest.mark.parametrize(
    ("name", "whole", "batch_size"),
    [("h-sd, no small steps", "h-sd", 3), ("tuples, no small steps", "without modulation", 9)],
)
def test_an_arm_without_small_steps_takes_all_others_of_its_twin_in_their_order(name, whole, batch_size, material):
    def first(arm):
        parts = sub_batches(ARMS[arm], material, batch_size, seed=0)
        steps, step = [], []
        while len(steps) < 24:
            step.append(next(parts))
            if step[-1].last:
                steps.append(step)
                step = []
        return steps

    def size(step):
        return sum(len(part.keys) for part in step)

    steps = first(whole)
    large = [step for step in steps if size(step) >= batch_size]
    assert 0 < len(large) < len(steps)
    assert first(name)[: len(large)] == large


class _Codec:
    channels, factor = 12, 2


def a_fleet(material, seeds, rank=0, dora=False, batch_size=3):
    stack = build("dit", _Codec(), 32, 2, {})
    stack.denoiser.requires_grad_(False)
    images = {
        item.key: torch.randn(12, 4, 4, generator=torch.Generator().manual_seed(n))
        for n, (item, _) in enumerate(material.slices)
    }

    def load(keys):
        return torch.stack([images[key] for key in keys]), ["a cat"] * len(keys)

    arm = ARMS["full"]
    members = [
        Member(sub_batches(arm, material, batch_size, seed), FlowMatching(arm.shift), 1e-3 * (1 + seed), seed, load)
        for seed in seeds
    ]
    trained = Trained(stack.denoiser, rank, dora)
    return stack, load, Fleet(stack.denoiser, trained, members, ground.Words(True), batch_size, window=4)


def test_models_of_a_fleet_are_what_torch_trains_one_by_one(material):
    """AdamW, clipping, Eq. 6 and the noise of the product's objective; seeds and rates side by side."""
    torch.manual_seed(0)
    stack, load, fleet = a_fleet(material, (0, 1))
    start = {name: value.clone() for name, value in stack.denoiser.named_parameters()}
    fleet.train(9)
    for row, seed in enumerate((0, 1)):
        with torch.no_grad():
            for name, value in stack.denoiser.named_parameters():
                value.copy_(start[name])
        stack.denoiser.requires_grad_(True)
        optimizer = torch.optim.AdamW(stack.denoiser.parameters(), lr=1e-3 * (1 + seed))
        optimizer.zero_grad()
        generator, stream = torch.Generator().manual_seed(1000 + seed), sub_batches(ARMS["full"], material, 3, seed)
        for _ in range(9):
            part = next(stream)
            latents, captions = load(part.keys)
            noised = FlowMatching(ARMS["full"].shift)(latents, part.granularities, generator)
            prediction = stack.denoiser(noised.noisy, noised.timesteps, *ground.Words(True)(captions))
            (slice_losses(prediction, noised).mean() * part.weight).backward()
            if part.last:
                torch.nn.utils.clip_grad_norm_(stack.denoiser.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        for name, value in stack.denoiser.named_parameters():
            assert torch.allclose(fleet.values[name][row], value, atol=2e-5), name


def test_a_card_updates_all_rows_at_once_to_the_same_weights(material):
    """The card's way of indexing, on the processor."""
    torch.manual_seed(0)
    _, _, alone = a_fleet(material, (0, 1, 2))
    torch.manual_seed(0)
    _, _, together = a_fleet(material, (0, 1, 2))
    together._update = lambda rows: rows and together._step(rows, torch.tensor(rows))
    alone.train(7)
    together.train(7)
    assert torch.allclose(alone.theta, together.theta, atol=1e-6)
    for left, right in zip(alone.recorded, together.recorded, strict=True):
        assert left.cosine == pytest.approx(right.cosine, abs=1e-4)


@pytest.mark.parametrize("dora", (False, True))
def test_an_adapter_begins_as_the_pretrained_model_and_moves_no_other_weight(material, dora):
    stack, _, fleet = a_fleet(material, (0,), rank=2, dora=dora)
    values = {name: value[0] for name, value in fleet.values.items()}
    for name, weight in fleet.trained.weights(values).items():
        assert torch.allclose(weight, fleet.trained.base[name], atol=1e-6)
    fleet.train(6)
    after = fleet.trained.weights({name: value[0] for name, value in fleet.values.items()})
    moved = {name for name, weight in after.items() if not torch.allclose(weight, fleet.trained.base[name], atol=1e-6)}
    assert moved and moved <= set(fleet.trained.adapted)


def test_a_path_in_one_direction_is_efficient_and_its_gradients_agree(material):
    _, _, fleet = a_fleet(material, (0,))
    for _ in range(8):
        fleet.grad.fill_(0.01)
        fleet.passes += 1
        fleet._update([0])
    found = fleet.smoothness()[0]
    assert found["cosine"] == pytest.approx(1, abs=1e-4) and found["signal"] == pytest.approx(1, abs=1e-4)
    assert found["efficiency"] == pytest.approx(1, abs=2e-2)


def test_gradients_that_turn_round_each_step_are_called_so(material):
    _, _, fleet = a_fleet(material, (0,))
    for number in range(8):
        fleet.grad.fill_(0.01 * (-1) ** number)
        fleet.passes += 1
        fleet._update([0])
    found = fleet.smoothness()[0]
    assert found["cosine"] == pytest.approx(-1, abs=1e-4) and found["signal"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("count", (3, 6))
def test_students_interval_of_paired_differences_covers(count):
    held = coverage(2000, lambda generator: (student(generator.normal(0.3, 2.0, count).tolist()), 0.3))
    assert 0.935 <= held <= 0.965


def test_students_interval_of_one_value_is_not_known_and_of_equal_ones_is_a_point():
    assert not student([1.0]).bounded
    assert student([1.0, 1.0, 1.0]).low == student([1.0, 1.0, 1.0]).high == 1.0


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((2.0, 2.1, 1.9), "supported"),
        ((0.1, 0.0, -0.1), "not supported"),
        ((3.0, -2.0, 4.0), "not decided"),
        ((1.0,), "not decided"),
    ],
)
def test_a_verdict_follows_from_the_interval_and_the_margin(values, verdict):
    assert verdicts.Comparison("words", student(values), len(values), margin=1.0).verdict == verdict


def test_a_claim_fails_with_one_needed_comparison_and_ignores_the_others():
    def one(value, needed=True):
        return verdicts.Comparison("words", student([value, value + 0.01, value - 0.01]), 3, 1.0, needed)

    assert verdicts.Claim(1, "", "", [one(2), one(0, needed=False)]).verdict == "supported"
    assert verdicts.Claim(1, "", "", [one(2), one(0)]).verdict == "not supported"
    assert verdicts.Claim(1, "", "", []).verdict == "not decided"


def test_as_good_in_less_time_may_lose_the_margin_and_no_more():
    def verdict(*values):
        return verdicts.Comparison("words", student(values), len(values), 1.0, as_good=True).verdict

    assert verdict(-0.2, -0.3, -0.25) == "supported"
    assert verdict(-3.0, -3.1, -2.9) == "not supported"
    assert verdict(-3.0, 3.0, 0.0) == "not decided"


def a_row(arm, lr, seed, chosen, reported=None):
    table = {"chosen": [[chosen] * 5] * 3, "reported": [[chosen if reported is None else reported] * 5] * 3}
    return {"cell": "c", "arm": arm, "lr": lr, "seed": seed, "curve": [{"passes": 2, **table}]}


def test_a_rate_is_chosen_on_one_half_and_reported_on_the_other():
    rows = [
        a_row("full", lr, seed, {1e-3: 0.5, 2e-3: 0.4}[lr], {1e-3: 0.1, 2e-3: 0.9}[lr])
        for lr in (1e-3, 2e-3)
        for seed in (0, 1)
    ]
    runs = verdicts.Runs(rows, 2)
    assert runs.best == {"full": 2e-3}
    assert verdicts.error()(runs.at("full")[0]) == pytest.approx(0.9)


def test_the_best_rate_is_interpolated_between_those_of_the_grid():
    def errors(*rates):
        return {rate: 0.3 + 0.01 * (math.log(rate) - math.log(3e-4)) ** 2 for rate in rates}

    assert verdicts.optimum(errors(1e-4, 2e-4, 4e-4, 8e-4)) == pytest.approx(3e-4)
    assert verdicts.optimum(errors(1e-4, 2.5e-4, 8e-4)) == pytest.approx(3e-4)
    assert math.isnan(verdicts.optimum(errors(1e-5, 1e-4, 2e-4)))


def test_differences_pair_the_seeds_that_both_arms_have():
    rows = [a_row("full", 1.0, seed, 0.4 + seed) for seed in range(3)] + [
        a_row("h-sd", 1.0, seed, 0.8 + seed) for seed in (1, 2, 3)
    ]
    assert verdicts.Runs(rows, 4 - 3).best.keys() == {"full"}
    runs = verdicts.Runs([*rows, a_row("h-sd", 1.0, 0, 0.8)], 1)
    assert runs.differences("h-sd", "full", verdicts.error(), True, relative=False) == pytest.approx([0.4] * 3)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Unpacked packages of random pictures, in place of Debian's."""
    cache = tmp_path_factory.mktemp("cache")
    rng = np.random.default_rng(0)
    places = {
        "plasma-workspace-wallpapers": [f"w{n}/contents" for n in range(3)],
        "gnome-backgrounds": ["a", "b", "c"],
        "mate-backgrounds": ["a", "b", "c"],
        "openclipart-png": ["animals"] * 24,
        "tuxpaint-stamps-default": ["plants"] * 24,
    }
    for package, folders in places.items():
        for number, folder in enumerate(folders):
            file = cache / "packages" / package / folder / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            small = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
            small.resize((256, 256), Image.Resampling.BICUBIC).save(file)
    return cache


TINY = dataclasses.replace(
    study.SIZES["quick"],
    passes=(1, 2),
    models=12,
    train_photos=6,
    held_slices=1,
    photos=16,
    broad=0.03,
    judge=2,
    pretraining={"dit": 1, "unet": 1},
    drawn=18,
)
CELL = study.Cell("dit", "drawings", ("raw", "h-sd", "full"), (1e-3,))


@pytest.fixture(scope="module")
def finished(packages, tmp_path_factory):
    made = study.Study(tmp_path_factory.mktemp("study"), packages, TINY)
    made.run([CELL])
    return made


def test_a_quick_study_runs_every_arm_and_seed_and_writes_what_was_measured(finished):
    rows = finished.rows(CELL)
    assert {(row["arm"], row["seed"]) for row in rows} == {(arm, seed) for arm in CELL.arms for seed in (0, 1)}
    numbers = json.dumps(rows[0])
    assert "NaN" not in numbers
    assert [point["passes"] for point in rows[0]["curve"]] == [1, 2]
    assert {"cosine", "signal", "efficiency", "retention", "conflict", "frechet_whole", "copied"} <= rows[0].keys()
    assert {row["device"] for row in rows} == {study.name_of(torch.device("cpu"))}


def test_a_study_that_was_stopped_goes_on_where_it_was_and_repeats_nothing(finished, packages, tmp_path, monkeypatch):
    file = next(finished.out.glob("*.jsonl"))
    lines = file.read_text().splitlines()
    (tmp_path / file.name).write_text("\n".join(lines[:4]) + "\n" + lines[4][:40])
    again = study.Study(tmp_path, packages, TINY)
    ran = []
    chunk = again._chunk
    monkeypatch.setattr(again, "_chunk", lambda cell, jobs: ran.extend(jobs) or chunk(cell, jobs))
    again.run([CELL])
    assert len(ran) == len(lines) - 4
    kept = {study._key(row): row["curve"] for row in again.rows(CELL)}
    assert kept == {study._key(row): row["curve"] for row in finished.rows(CELL)}


def test_a_study_of_other_plans_is_not_gone_on_with(finished, packages, tmp_path):
    file = next(finished.out.glob("*.jsonl"))
    rows = [json.loads(line) for line in file.read_text().splitlines()[:2]]
    (tmp_path / file.name).write_text("".join(f"{json.dumps({**row, 'plan': 3})}\n" for row in rows))
    with pytest.raises(SgaError, match="of version 3 .* another OUT"):
        study.Study(tmp_path, packages, TINY).run([CELL])
    assert len((tmp_path / file.name).read_text().splitlines()) == 2


def test_the_page_holds_every_claim_with_its_figure_and_the_data(finished, tmp_path):
    (tmp_path / "notes.md").write_text("We saw this.", encoding="utf-8")
    found = page.write_page(finished, tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "We saw this." in text and "nan" not in text
    assert "photos are tested on words" not in text  # which is so only where captions tell the scale
    for claim in found:
        assert f"### {claim.number}. {claim.title}: {claim.verdict}" in text
        assert f"({page.FIGURES[claim.number]}.svg)" in text
    for figure in re.findall(r"\(([\w-]+\.svg)\)", text):
        assert ElementTree.parse(tmp_path / figure).getroot().tag.endswith("svg")


def test_the_kept_data_tell_what_the_journals_tell(finished, tmp_path):
    page.write_page(finished, tmp_path)
    runs, errors = (
        list(csv.DictReader((tmp_path / f"{name}.csv").open(encoding="utf-8"))) for name in ("runs", "errors")
    )
    assert len(errors) == 2 * len(runs) and set(runs[0]) >= {"device", "cosine", "retention", "cosine/macro-micro"}
    known = {(row["arm"], row["lr"], row["seed"]): row for row in finished.rows(CELL)}
    for line in errors:
        run = runs[int(line["run"])]
        row, passes = known[run["arm"], float(run["lr"]), int(run["seed"])], int(line["passes"])
        table = [float(value) for place, value in line.items() if place.split()[0] in LEVELS]
        assert np.mean(table) == pytest.approx(verdicts.error(passes)(row), rel=1e-3)
        assert float(line["mean to choose by"]) == pytest.approx(study.error_of(row, "chosen", passes), rel=1e-3)
        assert max(len(value.strip("0.")) for value in line.values()) <= 5  # digits, and perhaps a point between them


def test_the_page_tells_which_machine_made_how_many_runs_whoever_writes_it():
    rows = [{"device": "a card", "seconds": 90.0}, {"device": "a card", "seconds": 30.0}, {"seconds": 300.0}]
    assert page._machines(rows) == "2 on a card, 2 minutes; 1 on a machine that was not noted, 5 minutes"


def a_ground(number, errors):
    """On the cell of that number, three seeds of each arm. errors: of the arms, at all passes."""
    rows = []
    for arm, level in errors.items():
        for seed in range(3):
            row = {**a_row(arm, 1.0, seed, level + 0.0001 * seed), "cosine": level, "signal": level, "efficiency": 0.1}
            rows.append({**row, "curve": [{**row["curve"][0], "passes": passes} for passes in (1, 2)]})
    return page.Finished(study.CELLS[number], verdicts.Runs(rows, 1))


def test_every_comparison_stands_in_one_line_for_all_grounds_and_is_judged_on_each_by_itself(tmp_path):
    grounds = [
        a_ground(0, {"raw": 0.5, "h-sd": 0.4, "without modulation": 0.45, "full": 0.4, "accumulation": 0.3}),
        a_ground(2, {"raw": 0.4, "h-sd": 0.5}),
    ]
    claims = page._everywhere(study.Study(tmp_path, tmp_path, TINY), grounds)
    assert [claim["title"][0] for claim in claims] == ["1", "2", "3", "4"]
    assert claims[2]["verdicts"] == ["supported", "not supported"]
    lines = {line[0]: line[1:] for claim in claims for line in claim["lines"]}
    left, right = lines["% of held-out error that slices save against photos, all granularities"]
    assert left.startswith("✓ 20.00") and right.startswith("✗ -24.99")
    assert lines["cosine of consecutive gradients, tuples minus accumulation"][0].startswith("✓ 0.15 ")
    assert lines["cosine of consecutive gradients, tuples minus accumulation"][1] == ""
    assert all(len(line) == 2 for line in lines.values())


def test_an_arm_has_one_colour_in_the_figures_of_all_grounds():
    some, more = a_ground(1, {"raw": 0.5, "full": 0.4}), a_ground(0, {"raw": 0.5, "h-sd": 0.4, "full": 0.4})

    def colours(ground):
        shapes = ElementTree.fromstring(page._curves(ground)).findall("{*}polyline")
        return dict(zip(ground.arms, [shape.get("stroke") for shape in shapes], strict=True))

    assert colours(some) == {arm: colours(more)[arm] for arm in ("raw", "full")}
    assert len(set(colours(more).values())) == 3


def test_no_run_is_begun_after_the_time_that_was_given(packages, tmp_path):
    late = study.Study(tmp_path, packages, TINY, until=0.0)
    late.run([CELL])
    assert late.rows(CELL) == []


def test_the_grid_grows_where_the_best_rate_is_its_end():
    assert study._beyond(2.0, [1.0, 2.0]) == [4.0]
    assert study._beyond(1.0, [1.0, 2.0]) == [0.5]
    assert study._beyond(2.0, [1.0, 2.0, 4.0]) == []


def test_a_seeds_held_out_pictures_are_of_photos_that_it_does_not_train_on(finished):
    domain = corpora.load_domain(finished.folder, "drawings")
    split = study.Split(domain, finished.ground("dit"), TINY, 0, scale=True)
    assert len(split.train) == TINY.train_photos
    trained_on = torch.stack([split.latents[key] for key in split.latents])
    for half in split.held.latents.values():
        nearest = torch.cdist(half.flatten(1), trained_on.flatten(1)).amin(1)
        assert bool((nearest > 1e-3).all())
    other = study.Split(domain, finished.ground("dit"), TINY, 1, scale=True)
    assert split.train != other.train and math.isfinite(float(split.held.whole.sum()))


def test_captions_tell_the_scale_only_where_the_cell_says_so(finished):
    domain = corpora.load_domain(finished.folder, "drawings")
    plain, telling = (study.Split(domain, finished.ground("dit"), TINY, 0, scale) for scale in (False, True))
    assert set(plain.held.captions["chosen"]) == {"animals"}
    assert set(telling.held.captions["chosen"]) == {"animals, whole", "animals, part", "animals, detail"}


def test_the_readme_says_what_the_kept_page_says():
    root = Path(__file__).parents[1]
    kept = (root / "examples" / "evidence" / "README.md").read_text(encoding="utf-8")
    readme = (root / "README.md").read_text(encoding="utf-8")
    said = re.search(r"<!-- evidence: (\S+) -->\n(.*?)<!-- /evidence -->", readme, re.DOTALL)
    assert said is not None and said.group(1) == "examples/evidence/README.md"
    verdict = r"^\| (\d\. [^|]+) \|.*\*\*(supported|not supported|not decided)\*\*"
    found = dict(re.findall(verdict, kept, re.MULTILINE))
    assert dict(re.findall(verdict, said.group(2), re.MULTILINE)) == found and len(found) == 6
    count = re.search(r"(\d+) runs of", kept)
    assert count is not None and f"{count.group(1)} fine-tunings" in readme
