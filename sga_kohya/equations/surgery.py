"""Gradient surgery between granularities: PCGrad (Yu et al. 2020) and CAGrad (Liu et al. 2021), by the Gram matrix.

Both only combine the given gradients linearly, so inner products are all they need: each function here returns the
weight of each gradient. The gradients g_k carry the weights of Eq. 6 of arXiv:2603.10785, so that without a conflict
PCGrad returns its gradient, sum g_k, unchanged.
"""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from sga_kohya.words import CAGRAD, PCGRAD

CAGRAD_C = 0.5  # c of CAGrad's trust region, its authors' default


def surgery_weights(method: str, gram: Tensor, generator: torch.Generator) -> Tensor:
    """w with the new gradient sum_k w_k g_k. gram: (K, K), <g_i, g_j>. Returns (K,), float64; ones where K is 1.

    Ones too where the Gram matrix is not finite, so that a loss scaler finds its overflow and skips the step. Raises
    ValueError for another method than those of words.py.
    """
    gram = gram.double().cpu()
    if len(gram) < 2 or not bool(torch.isfinite(gram).all()):
        return torch.ones(len(gram), dtype=torch.float64)
    if method == PCGRAD:
        return pcgrad_weights(gram, generator)
    if method == CAGRAD:
        return cagrad_weights(gram)
    raise ValueError(f"unknown gradient surgery {method!r}: use {PCGRAD} or {CAGRAD}")


def pcgrad_weights(gram: Tensor, generator: torch.Generator) -> Tensor:
    """Algorithm 1 of arXiv:2001.06782: each gradient loses its component against those it conflicts with, in random
    order, and the results are summed. gram: (K, K). Returns (K,)."""
    count = len(gram)
    weights = torch.zeros(count, dtype=gram.dtype)
    for i in range(count):
        projected = torch.zeros(count, dtype=gram.dtype)  # g_i^PC in terms of the g_k
        projected[i] = 1.0
        for j in torch.randperm(count, generator=generator).tolist():
            product = float(projected @ gram[:, j])
            if j != i and product < 0:
                projected[j] -= product / float(gram[j, j])
        weights += projected
    return weights


def cagrad_weights(gram: Tensor, c: float = CAGRAD_C) -> Tensor:
    """Algorithm 1 of arXiv:2110.14048: d = g_0 + c |g_0| / |g_w| g_w, where w on the simplex minimises
    <g_w, g_0> + c |g_0| |g_w|.

    g_0 is the gradient of Eq. 6, sum g_k, which makes the task gradients K g_k (of which it is the mean). gram: (K, K).
    c: in [0, 1); 0 is plain descent. Returns (K,), the weights of the g_k.
    """
    count = len(gram)
    tasks = (gram * count**2).numpy()
    mean = np.full(count, 1 / count)
    radius = c * float(np.sqrt(max(mean @ tasks @ mean, 0.0)))
    share = _minimise(tasks, tasks @ mean, radius)
    length = float(np.sqrt(max(share @ tasks @ share, 0.0)))
    scale = radius / length if length > 1e-12 * np.sqrt(np.trace(tasks)) else 0.0
    return torch.from_numpy(1 + scale * count * share)


def _minimise(tasks: np.ndarray, slope: np.ndarray, radius: float) -> np.ndarray:
    """The minimum over the simplex of F(w) = slope.w + radius sqrt(w' tasks w), in closed form on each face.

    Inside a face F is stationary where tasks y = lambda - slope for y = radius w / sqrt(w' tasks w), so that
    y' tasks y = radius^2 is a quadratic equation in lambda. There are 2^K - 1 faces, and K is a handful.
    """
    count = len(slope)
    # The ridge keeps gradients that depend on each other solvable.
    tasks = tasks + 1e-12 * np.trace(tasks) * np.eye(count)
    candidates = list(np.eye(count))
    for size in range(2, count + 1):
        for face in itertools.combinations(range(count), size):
            for inside in _stationary(tasks[np.ix_(face, face)], slope[list(face)], radius):
                candidates.append(np.zeros(count))
                candidates[-1][list(face)] = inside
    return min(candidates, key=lambda w: float(slope @ w + radius * np.sqrt(w @ tasks @ w)))


def _stationary(tasks: np.ndarray, slope: np.ndarray, radius: float) -> Iterator[np.ndarray]:
    """The points with all w > 0 and sum 1 where F is stationary; at most two."""
    try:
        p, q = np.linalg.solve(tasks, np.stack([np.ones_like(slope), slope], 1)).T
    except np.linalg.LinAlgError:
        return
    a, b, c = p.sum(), q.sum(), slope @ q - radius**2
    if a <= 0 or b * b < a * c:
        return
    for sign in (1, -1):
        y = (b + sign * np.sqrt(b * b - a * c)) / a * p - q
        if (y > 0).all():
            yield y / y.sum()
