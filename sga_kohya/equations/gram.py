"""What a Gram matrix of gradients says (Eq. 43-45 of arXiv:2603.10785), and what chance alone would have said.

Float64 on the CPU: the matrices have a row for each granularity, or for each sub-batch of a few steps.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_RANK = 1e-12  # eigenvalues below this share of the largest are rounding


def cosines(gram: Tensor) -> Tensor:
    """gram: (..., K, K). Returns (..., K, K) in [-1, 1]; NaN in the row of a zero gradient."""
    lengths = gram.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    # clamp: rounding can exceed 1
    return (gram / (lengths[..., :, None] * lengths[..., None, :])).clamp(-1, 1)


def magnitude_similarity(gram: Tensor) -> Tensor:
    """2|g_i||g_j| / (|g_i|^2 + |g_j|^2). gram: (..., K, K). Returns (..., K, K) in [0, 1]; 1 is equal length."""
    squared = gram.diagonal(dim1=-2, dim2=-1).clamp(min=0)
    rows, columns = squared[..., :, None], squared[..., None, :]
    return 2 * (rows * columns).sqrt() / (rows + columns)


def condition_number(gram: Tensor) -> Tensor:
    """Largest over smallest eigenvalue, at least 1; infinite where they are dependent. gram: (..., K, K), finite."""
    values = torch.linalg.eigvalsh(gram)
    low, high = values[..., 0], values[..., -1]
    return torch.where(low > _RANK * high, high / low, torch.full_like(high, math.inf))


def diagonal_dominance(gram: Tensor) -> Tensor:
    """min_i 1 - sum_{j != i} |G_ij| / G_ii, at most 1; above 0 the matrix is strictly dominant. gram: (..., K, K)."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    others = gram.abs().sum(-1) - diagonal.abs()
    return (1 - others / diagonal).amin(-1)


def figures(gram: Tensor, labels: Sequence[str]) -> dict[str, Tensor]:
    """The figures of Gram matrices by name. gram: (..., K, K), finite. labels: of its rows. Returns tensors (...)."""
    gram = gram.double()
    found: dict[str, Tensor] = {}
    cosine, magnitude = cosines(gram), magnitude_similarity(gram)
    for i, j in pairs(len(labels)):
        found[f"cosine/{labels[i]}-{labels[j]}"] = cosine[..., i, j]
        found[f"magnitude_similarity/{labels[i]}-{labels[j]}"] = magnitude[..., i, j]
    if len(labels) > 1:
        found["condition_number"] = condition_number(gram)
        found["diagonal_dominance"] = diagonal_dominance(gram)
    return found


def summary(gram: Tensor, labels: Sequence[str]) -> dict[str, float]:
    """`figures` of one Gram matrix, (K, K), as numbers. Those that are undefined or infinite are left out."""
    numbers = {name: float(value) for name, value in figures(gram, labels).items()}
    return {name: number for name, number in numbers.items() if math.isfinite(number)}


def pairs(count: int) -> list[tuple[int, int]]:
    """(i, j) with i < j."""
    return [(i, j) for i in range(count) for j in range(i + 1, count)]


def merge(gram: Tensor, places: Tensor, count: int) -> Tensor:
    """The Gram matrix of sums. gram: (M, M). places: (..., M), to which of `count` sums each vector belongs.

    Returns (..., count, count).
    """
    member = torch.nn.functional.one_hot(places, count).to(gram.dtype)
    return member.mT @ gram @ member


def shuffled(places: Tensor, blocks: Sequence[Hashable], draws: int, generator: torch.Generator) -> Tensor:
    """Random partitions with the same counts: labels change places inside their block only.

    places: (M,). blocks: M. Returns (draws, M).
    """
    result = places.repeat(draws, 1)
    for block in dict.fromkeys(blocks):
        members = torch.tensor([i for i, other in enumerate(blocks) if other == block])
        order = torch.rand(draws, len(members), generator=generator).argsort(1)
        result[:, members] = places[members][order]
    return result


def can_differ(labels: Sequence[Hashable], blocks: Sequence[Hashable]) -> bool:
    """Whether a random partition can be another one, and not only other names for the same sums.

    Where each label has one gradient, all partitions are the same. So it takes a label with two or more, and a block
    that holds two labels.
    """
    mixed = len({(block, label) for block, label in zip(blocks, labels, strict=True)}) > len(set(blocks))
    return mixed and len(labels) > len(set(labels))


@dataclass(frozen=True)
class Pooled:
    """Many gradients, the Gram matrix of their sums by label, and what chance alone would have said.

    real: `summary`. control: of each figure its mean over random partitions, their 5 % and 95 %, and the share of
    them at or below the real one; empty where no other partition exists.
    """

    names: list[str]
    gram: Tensor
    real: dict[str, float]
    control: dict[str, dict[str, float]]


def pool(gram: Tensor, labels: Sequence[str], blocks: Sequence[Hashable], draws: int, seed: int) -> Pooled:
    """gram: (M, M), of the gradients. labels, blocks: M each; see `shuffled`. draws: random partitions."""
    names = sorted(set(labels))
    places = torch.tensor([names.index(label) for label in labels])
    merged = merge(gram.double(), places, len(names))
    real = summary(merged, names)
    if not can_differ(labels, blocks):
        return Pooled(names, merged, real, {})
    generator = torch.Generator().manual_seed(seed)
    others = figures(merge(gram.double(), shuffled(places, blocks, draws, generator), len(names)), names)
    return Pooled(names, merged, real, {name: _chance(real[name], others[name]) for name in real})


def _chance(real: float, others: Tensor) -> dict[str, float]:
    others = others[torch.isfinite(others)]
    if not len(others):
        return {"mean": real, "low": real, "high": real, "at_or_below": 1.0}
    low, high = others.quantile(torch.tensor([0.05, 0.95], dtype=others.dtype)).tolist()
    # The real partition counts as one of the random ones; rounding must not decide between equal ones.
    below = (int((others <= real + 1e-12).sum()) + 1) / (len(others) + 1)
    return {"mean": float(others.mean()), "low": low, "high": high, "at_or_below": below}
