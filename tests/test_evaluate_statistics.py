"""Invariants of the evaluation's statistics: sums, permutations, ties, identical images, known values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sga_kohya.evaluate.rate.ballots import balanced_orders, dense, moved, williams_square
from sga_kohya.evaluate.rate.ranking import (
    krippendorff_alpha,
    order_agreement,
    pairwise_wins,
    plackett_luce,
    rank_shares,
)
from sga_kohya.kit.intervals import intervals, mean_of

RANKS = st.integers(2, 6).flatmap(lambda size: st.lists(st.integers(1, size), min_size=size, max_size=size))


@given(RANKS)
def test_rank_shares_sum_to_one_over_variants_and_over_places(ranks):
    shares = rank_shares(ranks)
    assert np.allclose(shares.sum(axis=0), 1) and np.allclose(shares.sum(axis=1), 1)


@given(RANKS, st.randoms())
def test_everything_follows_a_permutation_of_the_variants(ranks, random):
    order = list(range(len(ranks)))
    random.shuffle(order)
    permuted = [ranks[place] for place in order]
    assert np.allclose(rank_shares(permuted), rank_shares(ranks)[order])
    assert np.allclose(pairwise_wins(permuted), pairwise_wins(ranks)[np.ix_(order, order)])
    other = list(reversed(ranks))
    assert order_agreement(permuted, [other[p] for p in order]) == pytest.approx(order_agreement(ranks, other))


@given(RANKS)
def test_gaps_in_ranks_mean_nothing(ranks):
    spread_out = [10 * rank + 3 for rank in ranks]
    assert np.array_equal(rank_shares(spread_out), rank_shares(ranks))
    assert dense(spread_out) == dense(ranks)
    assert max(dense(ranks)) == len(set(ranks))


@given(RANKS)
def test_wins_of_a_pair_sum_to_one(ranks):
    wins = pairwise_wins(ranks)
    assert np.allclose(wins + wins.T, 1)


def test_ties_share_their_places():
    assert rank_shares([1, 1, 3]).tolist() == [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]
    assert rank_shares([2, 2, 2, 2]).tolist() == [[0.25] * 4] * 4


@given(st.integers(2, 9))
def test_williams_square_balances_places_and_neighbours(size):
    rows = williams_square(size)
    assert len(rows) == (size if size % 2 == 0 else 2 * size)
    for place in range(size):
        assert {[row[place] for row in rows].count(x) for x in range(size)} == {len(rows) // size}
    neighbours = [pair for row in rows for pair in zip(row, row[1:], strict=False)]
    assert {neighbours.count((a, b)) for a in range(size) for b in range(size) if a != b} == {len(rows) // size}


@given(st.integers(2, 6), st.integers(1, 40), st.integers(0, 99))
def test_orders_run_through_the_whole_square_before_any_row_comes_again(size, count, seed):
    names = [f"v{number}" for number in range(size)]
    orders = balanced_orders(names, count, np.random.default_rng(seed))
    rows = len(williams_square(size))
    assert len(orders) == count and all(sorted(order) == names for order in orders)
    for start in range(0, count - rows + 1, rows):
        assert len(set(orders[start : start + rows])) == rows


@given(st.integers(2, 8))
def test_nothing_stays_where_it_stood_in_a_moved_order(size):
    order = tuple(range(size))
    assert sorted(moved(order)) == list(order) and all(a != b for a, b in zip(order, moved(order), strict=True))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 9))
def test_the_interval_of_constant_values_is_that_value(prompts, seed):
    units = [np.full((count, 2), [0.25, -3.0]) for count in prompts]
    first, second = intervals(units, 100, 0.95, seed)
    assert first.low == pytest.approx(first.high) == pytest.approx(0.25) and second.value == pytest.approx(-3)


def test_means_weigh_datasets_alike_however_many_prompts_they_have():
    assert mean_of([np.zeros((1, 1)), np.ones((9, 1))]).tolist() == [0.5]


def test_the_interval_covers_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = sum(
        low.low <= 0 <= low.high
        for low in (intervals([generator.normal(size=(40, 1))], 400, 0.9, seed)[0] for seed in range(200))
    )
    assert 165 <= hits <= 195  # 180 expected


def test_with_several_datasets_the_interval_holds_their_spread():
    """Prompts agree within each dataset, datasets do not: only resampling datasets can show it."""
    units = [np.full((8, 1), value) for value in (0.0, 0.2, 1.0)]
    (interval,) = intervals(units, 500, 0.95, 0)
    assert interval.low < 0.1 and interval.high > 0.6
    (alone,) = intervals(units[:1], 500, 0.95, 0)
    assert alone.low == alone.high == 0


def test_a_paired_difference_is_narrower_than_its_parts():
    generator = np.random.default_rng(1)
    base = generator.normal(size=(20, 1))
    both = np.hstack([base, base + 0.1 + 0.01 * generator.normal(size=(20, 1))])
    left, right = intervals([both], 500, 0.95, 0)
    (difference,) = intervals([both @ np.array([[-1.0], [1.0]])], 500, 0.95, 0)
    assert difference.high - difference.low < 0.1 * (left.high - left.low)
    assert difference.excludes(0) and difference.value == pytest.approx(right.value - left.value)


def test_plackett_luce_finds_the_order_and_ties_give_zero():
    generator = np.random.default_rng(0)
    worth = np.array([1.0, 0.0, -1.0])
    draws = (worth + generator.gumbel(size=(600, 3))).argsort(axis=1)[:, ::-1]
    ranks = np.argsort(draws, axis=1) + 1
    assert plackett_luce(ranks, generator) == pytest.approx(worth, abs=0.25)
    assert plackett_luce(np.ones((20, 3), dtype=int), generator).tolist() == [0, 0, 0]


def test_plackett_luce_stays_finite_when_one_always_wins():
    found = plackett_luce(np.tile([1, 2, 3], (10, 1)), np.random.default_rng(0))
    assert np.isfinite(found).all() and found[0] > found[1] > found[2]


def test_half_broken_ties_pull_scores_together():
    untied = np.tile([1, 2], (40, 1))
    tied = np.vstack([untied, np.ones((200, 2), dtype=int)])
    scores = [plackett_luce(rows, np.random.default_rng(0), rounds=5)[0] for rows in (untied, tied)]
    assert scores[0] > scores[1] > 0


# The example of Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), section C: 4 observers, 12 units.
_ = np.nan
KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
        [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
    ]
)


def test_krippendorff_alpha_of_his_own_example():
    assert krippendorff_alpha(KRIPPENDORFF) == pytest.approx(0.815, abs=0.0005)


@given(st.permutations(range(4)), st.permutations(range(12)))
def test_krippendorff_alpha_knows_no_order_of_raters_and_units(raters, units):
    assert krippendorff_alpha(KRIPPENDORFF[raters][:, units]) == pytest.approx(krippendorff_alpha(KRIPPENDORFF))


@given(st.lists(st.integers(1, 4), min_size=2, max_size=12), st.integers(2, 4))
def test_raters_who_agree_have_alpha_one(values, raters):
    assert krippendorff_alpha(np.tile(np.array(values, dtype=float), (raters, 1))) == pytest.approx(1)


def test_raters_who_guess_have_alpha_near_zero():
    guesses = np.random.default_rng(0).integers(1, 5, (3, 3000)).astype(float)
    assert abs(krippendorff_alpha(guesses)) < 0.05
    assert np.isnan(krippendorff_alpha(np.array([[1.0, np.nan], [np.nan, 2.0]])))
