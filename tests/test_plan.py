"""The planner: every slice once an epoch, groups whole, one K a step, weights as Eq. 6 wants."""

import hashlib
import os
import pickle
import random
import subprocess
import sys
import tracemalloc
from argparse import Namespace
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sga_kohya.config import SgaConfig
from sga_kohya.equations.weights import sub_batch_weight
from sga_kohya.training import plan_report
from sga_kohya.training.begin import begins_run
from sga_kohya.training.dataset import Measure, RunDataset
from sga_kohya.training.memory import MODELS, Load
from sga_kohya.training.session import Session
from sga_kohya.tuples import packing
from sga_kohya.tuples.cursor import Cursor
from sga_kohya.tuples.groups import Cell, form_groups, granularities
from sga_kohya.tuples.packing import pack
from sga_kohya.tuples.planner import VERSION, Planner
from sga_kohya.tuples.step import Slice

from .bench.planner import bucketing, lower_bound, realistic_groups

LEVELS = ("macro", "meso", "micro")


def weight(label, present, samples, samples_of_level, lambdas=None, reduction="mean"):
    return sub_batch_weight((lambdas or {}).get(label, 1.0), present, 3, samples, samples_of_level, reduction)


@st.composite
def planners(draw):
    slices = []
    for number in range(draw(st.integers(1, 25))):
        levels = draw(st.sets(st.sampled_from(LEVELS), min_size=1))
        for level in sorted(levels):
            for copy in range(draw(st.integers(1, 2))):
                dataset = draw(st.integers(0, 1))
                bucket = draw(st.sampled_from(["tall", "wide"]))
                repeats = draw(st.sampled_from([1, 1, 1, 2]))
                slices += [(Slice(dataset, f"{number}/{level}/{copy}", level, bucket), str(number))] * repeats
    slices += [(Slice(0, f"reg/{i}", None, "wide"), None) for i in range(draw(st.integers(0, 3)))]
    return slices, Planner(
        form_groups(slices),
        batch_sizes=[draw(st.integers(1, 4)), draw(st.integers(1, 4))],
        weight=weight,
        groups_per_step=draw(st.sampled_from([None, 1, 3])),
        seed=draw(st.integers(0, 5)),
    )


@settings(max_examples=150, deadline=None)
@given(planners(), st.integers(0, 3))
def test_every_slice_exactly_once_an_epoch(made, epoch):
    slices, planner = made
    steps = planner.epoch(epoch)
    assert len(steps) == len(planner)
    trained = Counter((part.dataset, key) for step in steps for part in step for key in part.keys)
    assert trained == Counter((item.dataset, item.key) for item, _ in slices)


@settings(max_examples=150, deadline=None)
@given(planners(), st.integers(0, 3))
def test_steps_have_one_set_of_granularities_and_whole_groups(made, epoch):
    slices, planner = made
    kinds_of_copies = defaultdict(set)
    for group in planner.groups:
        for item in group:
            kinds_of_copies[item.key].add(granularities(group))
    for step in planner.epoch(epoch):
        kind = frozenset(label for part in step for label in part.granularities)
        for part in step:
            assert len(set(part.granularities)) == 1
            assert len(part.keys) == len(part.granularities) <= planner.batch_sizes[part.dataset]
            assert all(kind in kinds_of_copies[key] for key in part.keys)
        assert [part.last for part in step] == [False] * (len(step) - 1) + [True]


@settings(max_examples=100, deadline=None)
@given(planners())
def test_weights_of_a_step_sum_to_one(made):
    _, planner = made
    for step in planner.epoch(0):
        assert sum(part.weight for part in step) == pytest.approx(1.0)
        for label in {part.granularities[0] for part in step}:
            share = sum(part.weight for part in step if part.granularities[0] == label)
            assert share == pytest.approx(1 / len({part.granularities[0] for part in step}))


@settings(max_examples=50, deadline=None)
@given(planners(), st.integers(0, 3))
def test_the_same_plan_in_every_worker_and_rank(made, epoch):
    _, planner = made
    copy = pickle.loads(pickle.dumps(planner))
    copy.epoch(epoch + 1)  # what a process planned before must not matter
    assert list(copy.epoch(epoch)) == list(planner.epoch(epoch))


def test_groups_of_several_datasets_share_steps_where_the_batch_sizes_are_equal():
    """As H-SD writes clips: a dataset for each size."""
    slices = [(Slice(2 * n + m, f"{n}/{m}", label, n), str(n)) for n in range(4) for m, label in enumerate("ab")]
    lengths = [len(Planner(form_groups(slices), sizes, weight)) for sizes in ([4] * 8, [4, 2] * 4, [4, 4, 2, 2] * 2)]
    assert lengths == [1, 1, 2]
    unlabelled = [(Slice(n, f"{n}", None, 0), None) for n in range(4)]
    assert len(Planner(form_groups(unlabelled), [4] * 4, weight)) == 4, "as the host batches them"


PLAN = "from tests.test_plan import plan_digest; print(plan_digest())"


def plan_digest() -> str:
    planner = Planner(realistic_groups(300, 0), [4], weight, seed=5)
    return hashlib.sha256(repr([list(planner.epoch(epoch)) for epoch in range(2)]).encode()).hexdigest()[:16]


def test_the_same_plan_in_a_process_that_hashes_strings_otherwise():
    made = subprocess.run(
        [sys.executable, "-c", PLAN],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"PYTHONHASHSEED": "1"},
    )
    assert made.stdout.strip() == plan_digest()


def test_other_plans_need_another_version_or_saved_states_would_resume_into_them():
    assert (VERSION, plan_digest()) == (4, "152b759a8eb7637d")


@settings(max_examples=50, deadline=None)
@given(planners(), st.integers(0, 3), st.randoms())
def test_a_step_is_the_same_whichever_were_asked_for_before(made, epoch, rng):
    _, planner = made
    steps = list(planner.epoch(epoch))
    asked = planner.epoch(epoch)
    for position in rng.sample(range(len(steps)), len(steps)):
        assert asked[position] == steps[position]
    assert asked[-1] == steps[-1]
    assert asked[1:] == steps[1:]
    with pytest.raises(IndexError):
        asked[len(steps)]


def test_a_step_is_made_when_it_is_asked_for():
    made = []

    def counted(*facts):
        made.append(facts)
        return 1.0

    steps = Planner(kohya_groups(40), [4], counted).epoch(0)
    assert len(steps) == 10 and not made
    step = steps[7]
    assert len(made) == len(step)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=30), st.integers(1, 5))
def test_no_plan_has_fewer_sub_batches_than_the_lower_bound(buckets, size):
    groups = form_groups(
        (Slice(0, f"{number}/{level}", level, bucket), str(number))
        for number, of_group in enumerate(buckets)
        for level, bucket in zip(LEVELS, of_group, strict=True)
    )
    bound = lower_bound(groups, size)
    assert 3 * -(-len(groups) // size) <= bound <= sum(map(len, Planner(groups, [size], weight).epoch(0)))


def test_the_lower_bound_is_reached_where_buckets_agree_and_grows_where_they_do_not():
    alike = kohya_groups(12)
    assert lower_bound(alike, 4) == 9 == sum(map(len, Planner(alike, [4], weight).epoch(0)))
    unlike = form_groups((Slice(0, f"{n}/{level}", level, n), str(n)) for n in range(8) for level in LEVELS)
    assert lower_bound(unlike, 4) == 24
    halves = form_groups((Slice(0, f"{n}/{level}", level, n % 2), str(n)) for n in range(14) for level in LEVELS)
    assert lower_bound(halves, 8) == 6 == sum(map(len, Planner(halves, [8], weight).epoch(0))), "seven and seven"


@settings(max_examples=30, deadline=None)
@given(planners(), st.integers(0, 3))
def test_an_epoch_counts_its_sub_batches_without_making_them(made, epoch):
    _, planner = made
    steps = planner.epoch(epoch)
    counted = Counter(part.dataset for step in steps for part in step)
    assert {number: count for number, count in steps.sub_batches().items() if count} == counted
    bucket_of = {(item.dataset, item.key): item.bucket for group in planner.groups for item in group}
    largest: Counter[Cell] = Counter()
    for part in (part for step in steps for part in step):
        cell = Cell(part.granularities[0], part.dataset, bucket_of[part.dataset, part.keys[0]])
        largest[cell] = max(largest[cell], len(part.keys))
    assert steps.largest() == largest


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sets(st.integers(0, 5), min_size=1, max_size=3), min_size=8, max_size=8), st.booleans())
def test_what_a_swap_saves_is_the_difference_of_the_sub_batches(groups, empty):
    """empty: whether the last place of the second step is."""
    table = np.array([(sorted(cells) + [-1] * 3)[:3] for cells in [*groups, set()]], np.int32)
    one, two = [0, 1, 2, 3], [4, 5, 6, -1 if empty else 7]
    [gains] = packing._gains(np.array([one], np.int32), np.array([two], np.int32), table)

    def cost(step):
        return len({cell for group in step for cell in table[group].tolist()} - {-1})

    for i, j in np.ndindex(4, 4):
        swapped = [*one[:i], two[j], *one[i + 1 :]], [*two[:j], one[i], *two[j + 1 :]]
        saved = cost(one) + cost(two) - sum(map(cost, swapped))
        assert gains[i, j] == saved


def test_a_data_set_and_its_plan_take_some_bytes_a_slice_beside_the_keys():
    """A slice of its own takes 64, its place in a group 24 more, and both were held all through a run."""
    keys = [(f"{n}/{level}", f"{n}", level, n % 7) for n in range(5_000) for level in LEVELS]
    tracemalloc.start()
    planner = Planner(form_groups((Slice(0, key, level, n), name) for key, name, level, n in keys), [4], weight)
    steps = planner.epoch(0)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(steps) == 1250
    assert held < 60 * len(keys)


def test_groups_are_a_sequence_of_tuples_of_slices():
    slices = [Slice(0, "a/macro", "macro", 1), Slice(1, "a/micro", "micro", 2), Slice(0, "b", None, 1)]
    groups = form_groups(zip(slices, ("a", "a", None), strict=True))
    assert list(groups) == [tuple(slices[:2]), (slices[2],)] == groups[:]
    assert groups[-1] == (slices[2],) and groups.slices == 3
    assert groups.counts() == {(item.granularity, item.dataset, item.bucket): 1 for item in slices}
    with pytest.raises(IndexError):
        groups[2]


def kohya_groups(count: int, kinds=(LEVELS,)) -> list:
    return form_groups(
        (Slice(0, f"{number}/{level}", level, number % 3), str(number))
        for number in range(count)
        for level in kinds[number % len(kinds)]
    )


def test_no_group_is_split():
    planner = Planner(kohya_groups(20, (LEVELS, ("macro", "micro"), ("meso",))), [4], weight, seed=3)
    for epoch in range(5):
        for step in planner.epoch(epoch):
            members = defaultdict(set)
            for part in step:
                for key in part.keys:
                    members[key.split("/")[0]].add(part.granularities[0])
            kinds = {frozenset(levels) for levels in members.values()}
            assert len(kinds) == 1


def test_every_epoch_is_new_and_groups_meet_others():
    planner = Planner(kohya_groups(40), [4], weight)
    plans = [planner.epoch(epoch) for epoch in range(10)]
    assert len({repr(list(plan)) for plan in plans}) == 10
    partners = defaultdict(set)
    for plan in plans:
        for step in plan:
            stems = {key.split("/")[0] for part in step for key in part.keys}
            for stem in stems:
                partners[stem] |= stems - {stem}
    assert min(map(len, partners.values())) > 5, "the same groups meet every epoch"


def stems_of(step) -> frozenset[str]:
    return frozenset(key.split("/")[0] for part in step for key in part.keys)


def test_groups_of_equal_buckets_are_dealt_anew_every_epoch():
    slices = [(Slice(0, f"{number}/{level}", level, "square"), str(number)) for number in range(8) for level in LEVELS]
    planner = Planner(form_groups(slices), [4], weight)
    dealt = {frozenset(map(stems_of, planner.epoch(epoch))) for epoch in range(20)}
    assert len(dealt) > 10, "8 groups can be dealt to two steps in 35 ways"


def test_steps_come_in_random_order_and_not_kind_after_kind():
    planner = Planner(kohya_groups(24, (LEVELS, ("macro", "micro"))), [4], weight)
    orders = [
        tuple(len({part.granularities[0] for part in step}) for step in planner.epoch(epoch)) for epoch in range(20)
    ]
    assert {tuple(sorted(order)) for order in orders} == {(2, 2, 2, 3, 3, 3)}
    assert len(set(orders)) > 8, "three steps of each of two kinds can come in 20 orders"


def test_the_step_that_is_fuller_than_others_comes_anywhere_in_an_epoch():
    planner = Planner(kohya_groups(10), [4], weight)
    sizes = [[len(stems_of(step)) for step in planner.epoch(epoch)] for epoch in range(20)]
    assert {tuple(sorted(order)) for order in sizes} == {(3, 3, 4)}
    assert {order.index(4) for order in sizes} == {0, 1, 2}


@settings(max_examples=100, deadline=None)
@given(planners(), st.integers(0, 3))
def test_no_step_has_fewer_groups_than_an_even_share_of_its_kind_and_none_more_than_fit(made, epoch):
    _, planner = made
    sizes = defaultdict(list)
    for step in planner.epoch(epoch):
        sizes[kind_of(step, planner)].append(step[-1].groups)
    for (size, *_), found in sizes.items():
        assert len(found) == -(-sum(found) // size)
        assert sum(found) // len(found) <= min(found) and max(found) <= size


def kind_of(step, planner):
    """How many groups fit into a step, and what they agree in."""
    facts = {(part.granularities[0], planner.batch_sizes[part.dataset]) for part in step}
    size = max(size for _, size in facts)
    if {label for label, _ in facts} == {None}:
        return size, step[0].dataset
    return planner.groups_per_step or size, frozenset(facts)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 2), min_size=1, max_size=60), st.integers(1, 9), st.integers(0, 9))
@example([(0, 0)] * 57, 8, 0)
def test_groups_that_are_left_over_are_an_even_share_of_every_step(cells, size, seed):
    """Also where all the others fill steps of equal cells."""
    steps = pack(np.array([(one, 4 + two) for one, two in cells], np.int32), size, random.Random(seed))
    groups = (steps >= 0).sum(axis=1)
    assert sorted(steps[steps >= 0]) == list(range(len(cells))) and len(steps) == -(-len(cells) // size)
    assert groups.min() >= len(cells) // len(steps)


def test_long_lines_joined_in_pieces_have_even_steps_too(monkeypatch):
    monkeypatch.setattr(packing, "_MOST_FITTED", 2_000)
    rng = random.Random(0)
    cells = np.array([(rng.randrange(9), 9 + rng.randrange(9)) for _ in range(201)], np.int32)
    steps = pack(cells, 8, rng)
    assert sorted(steps[steps >= 0]) == list(range(201))
    assert Counter((steps >= 0).sum(axis=1).tolist()) == {8: 19, 7: 7}


def test_a_group_goes_to_an_empty_place_unless_its_own_step_would_get_too_small():
    full, short, shorter = [0, 1, 2], [3, 4, -1], [5, -1, -1]
    ours, theirs = np.array([full, full, short, short], np.int32), np.array([short, shorter, short, full], np.int32)
    one, two = packing._allowed(ours, theirs, 1), packing._allowed(ours, theirs, 2)
    assert one[0].all() and one[3].all(), "places may stay empty in either of the two"
    assert one[2].tolist() == [[True, True, False], [True, True, False], [False, False, False]]
    assert two[2].tolist() == [[True, True, True], [True, True, True], [True, True, False]]
    assert two[1].all()


def test_even_steps_take_no_more_sub_batches_than_a_small_one_did():
    """Means of three data sets by the planner before, whose leftover groups were a step of their own."""
    for batch_size, before in ((4, 1.1812), (8, 1.4875)):
        data = [realistic_groups(300, seed) for seed in range(3)]
        found = [sum(Planner(g, [batch_size], weight).epoch(0).sub_batches().values()) for g in data]
        assert np.mean([n / bucketing(g, batch_size) for n, g in zip(found, data, strict=True)]) < before


def test_granularities_come_in_random_order_within_a_step():
    planner = Planner(kohya_groups(1), [4], weight)
    orders = {tuple(part.granularities[0] for part in planner.epoch(epoch)[0]) for epoch in range(60)}
    assert len(orders) == 6, "three granularities have six orders"


def test_groups_whose_buckets_agree_share_a_step():
    # 12 groups in 3 buckets, 4 a step: 3 steps of 3 full sub-batches, none of them mixed.
    planner = Planner(kohya_groups(12), [4], weight)
    assert [len(step) for step in planner.epoch(0)] == [3, 3, 3]


def test_the_rest_is_packed_well():
    groups = realistic_groups(300, 0)
    for batch_size, limit in ((2, 1.07), (4, 1.22), (8, 1.54)):
        planner = Planner(groups, [batch_size], weight)
        counts = Counter((i.granularity, i.bucket) for group in groups for i in group)
        bucketing = sum(-(-count // batch_size) for count in counts.values())
        ours = sum(len(step) for step in planner.epoch(0))
        assert ours / bucketing < limit, f"{ours} sub-batches where plain bucketing needs {bucketing}"


def test_pack_makes_the_fewest_steps():
    for count, size in ((10, 4), (8, 8), (3, 5), (1, 1)):
        packed = pack(np.array([(n % 3, 3 + n % 2) for n in range(count)], np.int32), size, random.Random(0)).tolist()
        packed = [[group for group in step if group >= 0] for step in packed]
        assert len(packed) == -(-count // size)
        assert max(map(len, packed)) <= size
        assert sorted(group for step in packed for group in step) == list(range(count))


def test_repeats_make_copies_of_a_group():
    slices = [(Slice(0, "a/macro", "macro", 0), "a")] * 2 + [(Slice(0, "a/micro", "micro", 0), "a")] * 3
    assert sorted(len(group) for group in form_groups(slices)) == [1, 2, 2]


def test_images_without_a_granularity_make_the_batches_of_plain_bucketing():
    groups = form_groups((Slice(0, str(number), None, number % 3), None) for number in range(10))
    planner = Planner(groups, [2], weight, groups_per_step=1)
    assert len(planner) == 2 + 2 + 2
    assert all(len(step) == 1 for step in planner.epoch(0))


def test_loss_weights_and_reduction_reach_the_sub_batches():
    groups = kohya_groups(1, (("macro", "micro"),))
    scaled = partial(weight, lambdas={"macro": 2.0}, reduction="sum")
    (step,) = Planner(groups, [4], scaled).epoch(0)
    assert {part.granularities[0]: part.weight for part in step} == {"macro": 2.0, "micro": 1.0}


def plan_lines(levels, photos=8, batch_size=1, **measures):
    """What the printed plan says of the steps of groups of those granularities; eight of them, one a step."""
    slices = [(Slice(0, f"{n}/{level}", level, "square"), str(n)) for n in range(photos) for level in levels]
    planner = Planner(form_groups(slices), [batch_size], weight)

    class Dataset:
        planned = True

        def __len__(self):
            return len(planner)

        def measure(self, cell):
            return measures.get(cell.granularity)

    Dataset.planner = planner
    return list(plan_report._steps(Dataset()))


def test_the_plan_says_that_tuples_take_fewer_and_larger_steps_and_what_that_means_for_the_rate():
    assert "24 sub-batches (3.00 a step)" in plan_lines(LEVELS)[0]
    assert "without tuples the same passes are 24 steps" in plan_lines(LEVELS)[1]
    assert "Try up to 1.7 times the rate" in plan_lines(LEVELS)[1]
    assert len(plan_lines(LEVELS[:1])) == 1


def test_the_plan_says_how_many_steps_are_small_where_they_are_many():
    def said(photos, batch_size):
        return [line for line in plan_lines(LEVELS, photos, batch_size) if line.startswith("  small")]

    [line] = said(photos=1, batch_size=4)
    assert "1 of the steps are less than half full" in line
    assert not said(photos=2, batch_size=4) and not said(photos=9, batch_size=4) and not said(photos=9, batch_size=8)


@settings(max_examples=50, deadline=None)
@given(planners())
def test_a_step_is_less_than_half_full_only_where_no_more_groups_are_of_its_kind(made):
    _, planner = made
    steps = planner.epoch(0)
    assert planner.small() == sum(2 * step[-1].groups < kind_of(step, planner)[0] for step in steps)


def test_the_plan_looks_only_once_at_what_each_step_holds(monkeypatch):
    asked, unique = [], np.unique
    monkeypatch.setattr(np, "unique", lambda *of, **how: asked.append(of) or unique(*of, **how))
    assert plan_lines(LEVELS, micro=Measure(1280, 1280, 1, 6_400))
    assert len(asked) == 1


def test_the_plan_tells_the_tokens_of_each_granularity_s_largest_sub_batch_and_which_is_the_most():
    lines = plan_lines(LEVELS, micro=Measure(1280, 1280, 1, 6_400), macro=Measure(960, 544, 81, 42_840))[2:]
    assert lines == [
        "  tokens    macro           42,840 in a sub-batch of 1: 960 x 544, 81 frames"
        "   the most, so it decides the memory",
        "            micro            6,400 in a sub-batch of 1: 1280 x 1280",
    ]


def test_a_saved_state_names_the_version_of_its_plan():
    dataset = RunDataset([(Slice(0, "a", "macro", 0), "a")], [4], SgaConfig(), 0, {})
    assert Cursor(plan={**dataset.facts(), "planner": "1"}).changed(dataset.facts()) == [f"planner 1, now {VERSION}"]


def test_a_state_of_an_earlier_version_knows_the_slices_wherever_the_dataset_lies_now():
    """A state holds this digest, so it stays what it was: of each group, the slices with their files' names alone."""
    groups = [[("macro", "a.png"), ("micro", "b.png")], [("macro", "c.png")]]
    known = hashlib.sha256()
    for group in groups:
        known.update(repr([(label, 0, (64, 96), name) for label, name in group]).encode())
    for folder in ("", "/data/1_x/"):
        slices = [
            (Slice(0, folder + name, label, (64, 96)), str(number))
            for number, group in enumerate(groups)
            for label, name in group
        ]
        found = RunDataset(slices, [4], SgaConfig(), 0, {}).facts()
        assert found["slices"] == known.hexdigest()[:16] and found["groups"] == "2"


def test_a_run_asks_once_what_decides_its_memory_and_its_pace(capsys):
    """The plan that is printed, the estimate in it and the row of its pace are of one answer."""
    asked = []

    class Asked:
        modulation = "snr_gamma"

        def memory(self, batch, side, frames=1):
            asked.append((batch, side, frames))
            return MODELS["FLUX"], Load(batch, side, frames=frames)

        def snr_weights(self, label):
            return torch.ones(1000)

        def advice(self):
            return []

    session = Session(SgaConfig())
    session.has_data(RunDataset([(Slice(0, "a", "macro", (512, 512)), "a")], [4], SgaConfig(), 0, {}))
    begin = begins_run(lambda args: Namespace(is_main_process=True), session, lambda session, args: Asked())
    begin(Namespace(output_dir=None, max_train_epochs=None, max_train_steps=8, gradient_accumulation_steps=1))
    assert asked == [(4, 512, 1)]
    said = capsys.readouterr().out
    assert "batch 4 of 512 x 512" in session.task.trains and "  memory  " in said and "  time  " in said
