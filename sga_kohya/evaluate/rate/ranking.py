"""What rankings with ties say: rank distribution, pairwise wins, agreement.

A ranking is a vector of ranks, one for each variant, 1 the best; equal numbers are a tie and gaps mean nothing.
"""

import numpy as np
from numpy.typing import ArrayLike


def rank_shares(ranking: ArrayLike) -> np.ndarray:
    """How much of each place a variant holds. Returns (variants, places), rows and columns of which sum to 1.

    A tie of m variants shares its m places evenly, so two that tie for the first hold half of it each.
    """
    ranks = np.asarray(ranking)
    shares = np.zeros((len(ranks), len(ranks)))
    for rank in np.unique(ranks):
        tied = np.flatnonzero(ranks == rank)
        first = int((ranks < rank).sum())
        shares[tied, first : first + len(tied)] = 1 / len(tied)
    return shares


def pairwise_wins(ranking: ArrayLike) -> np.ndarray:
    """(variants, variants): 1 where the row beats the column, 0.5 where they tie; w + w.T is 1."""
    ranks = np.asarray(ranking)
    return (ranks[:, None] < ranks).astype(float) + 0.5 * (ranks[:, None] == ranks)


def krippendorff_alpha(ratings: np.ndarray, raters: np.ndarray | None = None, units: np.ndarray | None = None) -> float:
    """Krippendorff's alpha with the ordinal difference. ratings: (raters, units), NaN where one did not rate.

    raters, units: how often each counts, once if not given. A rater who counts twice is not compared with themselves.
    1 is agreement, 0 what chance gives. NaN where no unit has two ratings. Constant ratings give 1.
    Krippendorff, Content Analysis (2004), section 11.3.
    """
    values = np.unique(ratings[~np.isnan(ratings)])
    raters = np.ones(len(ratings)) if raters is None else raters
    units = np.ones(ratings.shape[1]) if units is None else units
    given = np.stack([ratings == value for value in values], axis=2).astype(float)  # (raters, units, values)
    counts, own = np.tensordot(raters, given, 1), np.tensordot(raters**2, given, 1)  # (units, values)
    pairs = counts[:, :, None] * counts[:, None, :] - own[:, :, None] * np.eye(len(values))
    # Divided by the number of ratings less one, where each rater counts once.
    total, all_pairs = counts.sum(axis=1), pairs.sum(axis=(1, 2))
    known = (all_pairs > 0) & (units > 0)
    if not known.any():
        return float("nan")
    scale = units[known] * total[known] / all_pairs[known]
    coincidences = (pairs[known] * scale[:, None, None]).sum(axis=0)
    margins = coincidences.sum(axis=0)
    cumulative = np.concatenate([[0], np.cumsum(margins)])
    # between values c <= k: all ratings from c to k, of c and k themselves half.
    between = cumulative[1:][None, :] - cumulative[:-1][:, None] - (margins[:, None] + margins[None, :]) / 2
    difference = np.triu(between, 1)
    difference = (difference + difference.T) ** 2
    expected = (np.outer(margins, margins) * difference).sum() / (margins.sum() - 1)
    return float(1 - (coincidences * difference).sum() / expected) if expected else 1.0


def order_agreement(left: ArrayLike, right: ArrayLike) -> float | None:
    """Share of the pairs on which two rankings agree: the same order, or tied in both. None for fewer than two."""
    both = np.asarray(left), np.asarray(right)
    upper = np.triu_indices(len(both[0]), 1)
    signs = [np.sign(ranks[:, None] - ranks)[upper] for ranks in both]
    return float((signs[0] == signs[1]).mean()) if len(signs[0]) else None
