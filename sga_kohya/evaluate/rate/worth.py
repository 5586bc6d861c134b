"""How much better one variant is than another, where ties are answers too: Davidson's model (JASA 65 (1970) 317).

Of a pair in a ranking, i comes first with a probability proportional to worth_i, j with worth_j, and the two tie with
delta sqrt(worth_i worth_j). So variants that mostly tie keep the odds worth_i / worth_j of the rankings that do tell
them apart; breaking ties at random, as Plackett-Luce needs it, would draw .80 down to .59. Without ties the pairs of a
Plackett-Luce ranking follow this model exactly, whatever else was shown. The pairs of one ranking hang together, and
that is why intervals resample prompts and raters and trust no likelihood.
"""

import numpy as np

PRIOR = 0.01
"""Of a normal prior on log-worths and log delta, the inverse of its variance: keeps one that always wins finite."""
_STEPS, _SMALL = 200, 1e-8
_CHUNK = 256  # fits at once


def pair_counts(ranks: np.ndarray) -> np.ndarray:
    """Of a ranking, (variants,), for each pair i < j whether i is before, j is before, or they tie. (pairs, 3)."""
    i, j = np.triu_indices(len(ranks), 1)
    return np.stack([ranks[i] < ranks[j], ranks[i] > ranks[j], ranks[i] == ranks[j]], axis=1).astype(float)


def log_worth(counts: np.ndarray, variants: int) -> np.ndarray:
    """Log-worth of each variant, mean 0. counts: (fits, pairs, 3), sums of `pair_counts`. Returns (fits, variants)."""
    design = _design(variants)
    parts = np.array_split(counts, max(1, -(-len(counts) // _CHUNK)))
    return np.concatenate([_fit(part, design) for part in parts])


def _design(variants: int) -> np.ndarray:
    """What each answer's log-probability adds up, but for a constant: (pairs, 3, variants + 1), the last for delta."""
    i, j = np.triu_indices(variants, 1)
    design, pairs = np.zeros((len(i), 3, variants + 1)), np.arange(len(i))
    design[pairs, 0, i] = design[pairs, 1, j] = design[:, 2, -1] = 1
    design[pairs, 2, i] = design[pairs, 2, j] = 0.5
    return design


def _fit(counts: np.ndarray, design: np.ndarray) -> np.ndarray:
    """Newton's method, many fits at once; each is concave. counts: (fits, pairs, 3)."""
    size = design.shape[-1]
    parameters, asked = np.zeros((len(counts), size)), counts.sum(axis=2)
    seen = np.einsum("bpo,pok->bk", counts, design)
    for _ in range(_STEPS):
        scores = parameters @ design.reshape(-1, size).T
        shares = np.exp(scores.reshape(counts.shape) - scores.max(axis=1)[:, None, None])
        shares /= shares.sum(axis=2, keepdims=True)
        means = np.einsum("bpo,pok->bpk", shares, design)
        slope = seen - np.einsum("bp,bpk->bk", asked, means) - PRIOR * parameters
        curve = np.einsum("bpo,pok,pol->bkl", asked[:, :, None] * shares, design, design, optimize=True)
        curve += PRIOR * np.eye(size) - np.einsum("bp,bpk,bpl->bkl", asked, means, means, optimize=True)
        step = np.linalg.solve(curve, slope[:, :, None])[:, :, 0]
        length = np.abs(step).max(axis=1, keepdims=True)
        parameters += step / np.maximum(1, length)  # a longer step overshoots where an answer was nearly never given
        if length.max() < _SMALL:
            break
    worth = parameters[:, :-1]
    return worth - worth.mean(axis=1, keepdims=True)
