"""What rankings with ties say: rank distribution, pairwise wins, Plackett-Luce scores, agreement.

A ranking is a vector of ranks, one for each variant, 1 the best; equal numbers are a tie and gaps mean nothing.
"""

from collections.abc import Sequence

import numpy as np


def rank_shares(ranks: Sequence[float]) -> np.ndarray:
    """How much of each place a variant holds. Returns (variants, places), rows and columns of which sum to 1.

    A tie of m variants shares its m places evenly, so two that tie for the first hold half of it each.
    """
    ranks = np.asarray(ranks)
    shares = np.zeros((len(ranks), len(ranks)))
    for rank in np.unique(ranks):
        tied = np.flatnonzero(ranks == rank)
        first = int((ranks < rank).sum())
        shares[tied, first : first + len(tied)] = 1 / len(tied)
    return shares


def pairwise_wins(ranks: Sequence[float]) -> np.ndarray:
    """(variants, variants): 1 where the row beats the column, 0.5 where they tie; w + w.T is 1."""
    ranks = np.asarray(ranks)
    return (ranks[:, None] < ranks).astype(float) + 0.5 * (ranks[:, None] == ranks)


def plackett_luce(rankings: np.ndarray, generator: np.random.Generator, rounds: int = 1) -> np.ndarray:
    """Log-worth of each variant, mean 0, by choix. rankings: (ballots, variants) of ranks.

    The model knows no ties: they are broken at random, in each of `rounds` fits anew, and the fits averaged. A small
    prior keeps the score of a variant that never wins finite.
    """
    import choix

    if not (rankings != rankings[:, :1]).any():
        return np.zeros(rankings.shape[1])  # nothing was told apart, so there is nothing to fit
    ties = (np.diff(np.sort(rankings, axis=1), axis=1) == 0).any()
    fits = []
    for _ in range(rounds if ties else 1):
        order = np.lexsort((generator.random(rankings.shape), rankings), axis=1)
        fits.append(choix.ilsr_rankings(rankings.shape[1], order.tolist(), alpha=0.01, tol=1e-5))
    return np.mean(fits, axis=0) - np.mean(fits)


def krippendorff_alpha(ratings: np.ndarray) -> float:
    """Krippendorff's alpha with the ordinal difference. ratings: (raters, units), NaN where one did not rate.

    1 is agreement, 0 what chance gives. NaN where no unit has two ratings. Constant ratings give 1.
    Krippendorff, Content Analysis (2004), section 11.3.
    """
    values = np.unique(ratings[~np.isnan(ratings)])
    counts = np.stack([(ratings == value).sum(axis=0) for value in values], axis=1).astype(float)  # (units, values)
    counts = counts[counts.sum(axis=1) >= 2]
    if not len(counts):
        return float("nan")
    per_unit = counts.sum(axis=1, keepdims=True)
    pairs = np.einsum("uc,uk->uck", counts, counts) - np.einsum("uc,ck->uck", counts, np.eye(len(values)))
    coincidences = (pairs / (per_unit[:, :, None] - 1)).sum(axis=0)
    margins = coincidences.sum(axis=0)
    cumulative = np.concatenate([[0], np.cumsum(margins)])
    # between values c <= k: all ratings from c to k, of c and k themselves half.
    between = cumulative[1:][None, :] - cumulative[:-1][:, None] - (margins[:, None] + margins[None, :]) / 2
    difference = np.triu(between, 1)
    difference = (difference + difference.T) ** 2
    expected = (np.outer(margins, margins) * difference).sum() / (margins.sum() - 1)
    return float(1 - (coincidences * difference).sum() / expected) if expected else 1.0


def order_agreement(left: Sequence[float], right: Sequence[float]) -> float | None:
    """Share of the pairs on which two rankings agree: the same order, or tied in both. None for fewer than two."""
    left, right = np.asarray(left), np.asarray(right)
    upper = np.triu_indices(len(left), 1)
    signs = [np.sign(ranks[:, None] - ranks)[upper] for ranks in (left, right)]
    return float((signs[0] == signs[1]).mean()) if len(signs[0]) else None
