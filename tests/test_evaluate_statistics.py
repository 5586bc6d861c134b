"""Invariants of the evaluation's statistics: sums, permutations, ties, identical images, known values."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sga_kohya.evaluate.rate.ballots import balanced_orders, dense, moved, williams_square
from sga_kohya.evaluate.rate.ranking import (
    krippendorff_alpha,
    order_agreement,
    pairwise_wins,
    rank_shares,
)
from sga_kohya.evaluate.rate.worth import log_worth, pair_counts
from sga_kohya.kit.intervals import Factor, Interval, intervals, mean_of, resampled, student_quantile, wilson

from .bench.coverage import Metrics, Study, coverage

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
@given(st.lists(st.integers(2, 5), min_size=1, max_size=4), st.integers(0, 9))
def test_the_interval_of_constant_values_is_that_value(prompts, seed):
    units = [np.full((count, 2), [0.25, -3.0]) for count in prompts]
    first, second = intervals(units, 100, 0.95, seed)
    assert first.low == pytest.approx(first.high) == pytest.approx(0.25) and second.value == pytest.approx(-3)


def test_means_weigh_datasets_alike_however_many_prompts_they_have():
    assert mean_of([np.zeros((1, 1)), np.ones((9, 1))]).tolist() == [0.5]


@pytest.mark.parametrize("freedom", [1, 2, 3, 7, 8, 42, 500, 5000])
@pytest.mark.parametrize("probability", [0.6, 0.975, 0.9995])
def test_students_quantile_is_that_of_scipy(freedom, probability):
    scipy = pytest.importorskip("scipy.stats")
    assert student_quantile(probability, freedom) == pytest.approx(scipy.t.ppf(probability, freedom), rel=2e-3)
    if freedom < 1000:
        assert student_quantile(probability, freedom) == pytest.approx(scipy.t.ppf(probability, freedom), rel=1e-9)


def test_wilsons_interval_has_his_figures_and_never_ends_at_a_point():
    """Newcombe, Statistics in Medicine 17 (1998) 857, table I: 81/263, 15/148, 0/20, 1/29."""
    known = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (hits, count), ends in known.items():
        found = wilson(hits, count, 0.95)
        assert (found.low, found.high) == pytest.approx(ends, abs=5e-5) and found.value == hits / count
    assert wilson(20, 20, 0.95).high == 1 and not wilson(0, 0, 0.95).known


@pytest.mark.parametrize("case", [Metrics(1, 3), Metrics(1, 8), Metrics(2, 8), Metrics(6, 8, 0)])
def test_intervals_of_a_metric_hold_its_mean_over_these_data_sets(case):
    """Plain percentiles of prompts cover .78 and .88 of the first two; resampled data sets .98 and 1 of the others."""
    assert 0.92 <= coverage(300, lambda generator: case.one(generator, old=False)) <= 0.98


def test_with_data_sets_that_are_alike_prompts_are_not_counted_twice():
    case = Metrics(6, 8, 0)
    widths = {}
    for old in (False, True):
        found = [case.one(np.random.default_rng(seed), old)[0] for seed in range(60)]
        widths[old] = np.mean([interval.high - interval.low for interval in found])
    theory = 2 * 2.02 / math.sqrt(48)  # Student's t with 42 degrees of freedom
    assert widths[False] == pytest.approx(theory, rel=0.05)
    assert widths[True] > 1.2 * theory


def test_intervals_of_human_rates_hold_the_truth_where_raters_differ():
    """The paper's own size. Without resampling raters it would be .84 to .65, by how much they differ."""
    study = Study(6, 8, 20, differ=1.5)
    truth = study.truth()
    assert coverage(60, lambda generator: study.one(generator, False, truth)) >= 0.9
    assert coverage(60, lambda generator: study.one(generator, True, truth)) < 0.8


def test_data_sets_are_fixed_and_their_own_difference_is_no_spread():
    """Prompts agree within each data set, data sets do not: nothing that is resampled would change the mean."""
    units = [np.full((8, 1), value) for value in (0.0, 0.2, 1.0)]
    (interval,) = intervals(units, 500, 0.95, 0)
    assert interval.low == interval.high == pytest.approx(0.4)


def test_one_prompt_in_a_data_set_gives_no_interval_and_excludes_nothing():
    (found,) = intervals([np.zeros((1, 1)), np.ones((9, 1))], 100, 0.95, 0)
    assert found.value == 0.5 and not found.bounded and str(found) == "0.500 [?]"
    assert not found.excludes(7) and Interval(0.5, 0.1, 0.9).excludes(7) and not Interval(0.5, 0.1, 0.9).excludes(0.2)


def test_few_resamples_reach_as_far_as_many():
    """What lies beyond the last percentile that the draws resolve is stretched, so 99.9 % need no 100,000 draws."""
    values = np.random.default_rng(3).normal(size=(30, 1))

    def mean(times):
        return times @ values / 30

    wide = [resampled(mean, [Factor((30,))], count, 0.999, 0)[0] for count in (200, 50_000)]
    assert wide[0].high - wide[0].low == pytest.approx(wide[1].high - wide[1].low, rel=0.2)


def test_a_paired_difference_is_narrower_than_its_parts():
    generator = np.random.default_rng(1)
    base = generator.normal(size=(20, 1))
    both = np.hstack([base, base + 0.1 + 0.01 * generator.normal(size=(20, 1))])
    left, right = intervals([both], 500, 0.95, 0)
    (difference,) = intervals([both @ np.array([[-1.0], [1.0]])], 500, 0.95, 0)
    assert difference.high - difference.low < 0.1 * (left.high - left.low)
    assert difference.excludes(0) and difference.value == pytest.approx(right.value - left.value)


def worth_of(rankings):
    return log_worth(sum(map(pair_counts, np.asarray(rankings)))[None], len(rankings[0]))[0]


def test_worth_is_plackett_luces_where_nothing_ties():
    generator = np.random.default_rng(0)
    worth = np.array([1.0, 0.0, -1.0])
    draws = (worth + generator.gumbel(size=(2000, 3))).argsort(axis=1)[:, ::-1]
    assert worth_of(np.argsort(draws, axis=1) + 1) == pytest.approx(worth, abs=0.1)
    assert worth_of(np.ones((20, 3), dtype=int)) == pytest.approx([0, 0, 0], abs=1e-12)


def test_worth_stays_finite_when_one_always_wins():
    found = worth_of(np.tile([1, 2, 3], (10, 1)))
    assert np.isfinite(found).all() and found[0] > found[1] > found[2]


@pytest.mark.parametrize("tied", [0.0, 0.5, 0.95])
def test_ties_do_not_shrink_what_the_other_rankings_say(tied):
    """True odds of .80 in the rankings that tell two variants apart; broken at random, nearly all ties give .52."""
    generator = np.random.default_rng(1)
    count = 8000
    ranks = np.where(generator.random((count, 1)) < 0.8, [1, 2], [2, 1])
    ranks[generator.random(count) < tied] = 1
    first, second = worth_of(ranks)
    assert 1 / (1 + math.exp(second - first)) == pytest.approx(0.8, abs=0.03)


def test_rankings_of_three_with_ties_keep_the_worth_that_made_them():
    """Drawn pair by pair from Davidson's model, so that the truth is known."""
    worth, tie = np.array([0.9, 0.1, -1.0]), 2.0
    counts = np.zeros((1, 3, 3))
    for pair, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
        odds = np.array([np.exp(worth[i]), np.exp(worth[j]), tie * np.exp((worth[i] + worth[j]) / 2)])
        counts[0, pair] = 10_000 * odds / odds.sum()
    assert log_worth(counts, 3)[0] == pytest.approx(worth, abs=1e-4)


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


def test_a_rater_drawn_twice_is_not_compared_with_themselves():
    """Weighted by hand: the pairs of different raters, by how often both were drawn."""
    raters, units = np.array([2.0, 0.0, 1.0, 1.0]), np.ones(12)
    units[3] = 0
    drawn = KRIPPENDORFF[[0, 0, 2, 3]][:, units > 0]
    assert krippendorff_alpha(KRIPPENDORFF, raters, units) < krippendorff_alpha(drawn)
    same = krippendorff_alpha(KRIPPENDORFF, np.array([1.0, 0, 1, 1]), units)
    assert same == pytest.approx(krippendorff_alpha(KRIPPENDORFF[[0, 2, 3]][:, units > 0]))
    twice = krippendorff_alpha(KRIPPENDORFF, units=1 + (np.arange(12) == 2))
    assert twice == pytest.approx(krippendorff_alpha(np.hstack([KRIPPENDORFF, KRIPPENDORFF[:, [2]]])))
