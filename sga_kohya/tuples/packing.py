"""Groups into steps of few sub-batches: those alike together, the rest by what fits best, then exchanges.

All of it on whole arrays, so that 1,000,000 groups take seconds. A group is here what its cells are, and a step costs
as many sub-batches as its groups have different cells. Random numbers are bytes of Python's own generator, which are
the same everywhere and for ever, and orders are stable sorts: a seed means one plan in every worker and on every rank.
"""

import random
from itertools import product

import numpy as np
from numpy.typing import NDArray

Cells = NDArray[np.int32]
"""Numbers of the cells of each group, each once, rows filled up with -1."""
Steps = NDArray[np.int32]
"""Numbers of the groups of each step, rows filled up with -1."""

_ROUNDS = 30
"""Of exchanges. More save sub-batches, and let the same groups meet more often: tests/bench/README.md has the curve."""
_MOST_COMPARED = 150_000_000
"""Pairs of cells that the exchanges of an epoch compare; at 1,000,000 groups this ends them before their rounds do."""
_MOST_FITTED = 200_000_000
"""Pairs of groups looked at where steps are begun."""
_AT_ONCE = 1_000_000
"""Pairs of cells in memory at a time."""


def pack(cells: Cells, size: int, rng: random.Random) -> Steps:
    """Partition groups into ceil(len / size) steps, none smaller than an even share, those whose cells agree together.

    Groups with equal cells fill steps of their own; the rest is joined greedily and improved by exchanges. The places
    that stay empty are spread over the rest, so steps of equal cells are part of it where it has too few. Returns
    (steps, size).
    """
    line, length, place = _in_line(cells, rng)
    count, empty = -(-len(line) // size), -len(line) % size
    whole = place < length - length % size
    whole &= np.cumsum(whole) <= max(count - empty, 0) * size
    padded = np.append(cells, np.full((1, cells.shape[1]), -1, np.int32), axis=0)  # its last row is that of group -1
    mixed = _join(_places(line[~whole], size), padded)
    _exchange(mixed, padded, -(-empty // count), rng)
    return np.concatenate([line[whole].reshape(-1, size), mixed])


def random_order(count: int, rng: random.Random) -> NDArray[np.int64]:
    """The numbers from 0 to count, shuffled."""
    return np.argsort(np.frombuffer(rng.randbytes(8 * count), "<u8"), kind="stable")


def runs(rows: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Equal rows side by side. rows: (n, m). Returns an order of them, and where in it each run of equals ends."""
    order = np.lexsort(rows.T[::-1])
    rows = rows[order]
    changes = np.flatnonzero((rows[1:] != rows[:-1]).any(axis=1)) + 1
    return order, np.append(changes, len(rows))


def _in_line(cells: Cells, rng: random.Random) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Groups in an order in which those with equal cells are side by side, and near them those that share some.

    The order is new each epoch. Returns, for each in line: the group, how many have its cells, and which of them it is.
    """
    count = int(cells.max()) + 1
    rank = np.append(random_order(count, rng), count).astype(np.int32)  # the last is that of -1
    dealt = random_order(len(cells), rng)
    order, ends = runs(np.sort(rank[cells[dealt]], axis=1))
    lengths = np.diff(ends, prepend=0)
    place = np.arange(len(order)) - np.repeat(ends - lengths, lengths)
    return dealt[order].astype(np.int32), np.repeat(lengths, lengths), place


def _places(rest: NDArray[np.int32], size: int) -> Steps:
    """Groups in line, in the places of as few steps as hold them. Where places stay empty, the last steps have most."""
    count, empty = -(-len(rest) // size), -len(rest) % size
    filled = size - (empty + np.arange(count)) // max(count, 1)
    places = np.full((count, size), -1, np.int32)
    places[np.arange(size) < filled[:, None]] = rest
    return places


def _join(places: Steps, cells: Cells) -> Steps:
    """Steps of unlike groups: start with the next in line, then again and again take the one that fits best.

    A step gets as many groups as it has in places. A long line is cut into pieces that are joined at once.
    """
    size, count = places.shape[1], places.size
    window = max(size, min(count, _MOST_FITTED // max(count, 1)) // size * size)
    line = np.append(places, np.full(-count % window, -1, np.int32)).reshape(-1, window)
    pieces = np.arange(len(line))
    of_line = np.ascontiguousarray(np.moveaxis(cells[line], 2, 0))  # (cells of a group, pieces, window)
    taken = np.where(line < 0, _LAST, 0).astype(np.int32)
    joined = np.empty_like(line)
    for turn in range(window):
        if turn % size == 0:
            missing, cost = of_line >= 0, taken
        best = np.argmin(cost, axis=1)  # the first of equals
        fills = line[:, turn] >= 0
        joined[:, turn] = np.where(fills, line[pieces, best], -1)
        taken[pieces, best] += fills * _LAST
        for cell in of_line[:, pieces, best]:
            missing &= of_line != cell[:, None]
        cost = taken + missing.sum(axis=0, dtype=np.int32)
    return joined.reshape(-1, size)[: len(places)]


_LAST = 1 << 20
"""More cells than a group has."""


def _exchange(steps: Steps, cells: Cells, most_empty: int, rng: random.Random) -> None:
    """Rounds in which steps meet in pairs and swap the two groups that save most sub-batches, in place.

    Swaps that change nothing are made too: they lead out of dead ends, and let other groups meet. Pairs are random
    among steps that share a cell, because others have nothing to gain. most_empty: places that may be in a step.
    """
    count, size = steps.shape
    compared = (size * cells.shape[1]) ** 2
    at_once = max(1, _AT_ONCE // compared)
    for turn in range(min(_ROUNDS, _MOST_COMPARED // max(count // 2 * compared, 1)) if count > 1 else 0):
        order = _by_a_cell(steps, cells, rng)
        here, there = order[turn % 2 : -1 : 2], order[turn % 2 + 1 :: 2]
        for start in range(0, len(here), at_once):
            _swap(steps, here[start : start + at_once], there[start : start + at_once], cells, most_empty, rng)


def _by_a_cell(steps: Steps, cells: Cells, rng: random.Random) -> NDArray[np.int64]:
    """The steps in random order, but side by side those of which the same cell was drawn."""
    order = random_order(len(steps), rng)
    drawn = np.frombuffer(rng.randbytes(8 * len(steps)), "<u4").reshape(-1, 2)
    group = steps[order, drawn[:, 0] % steps.shape[1]]
    return order[np.argsort(cells[group, drawn[:, 1] % cells.shape[1]], kind="stable")]


def _swap(steps: Steps, here: NDArray, there: NDArray, cells: Cells, most_empty: int, rng: random.Random) -> None:
    """Of each pair of steps, make the best of its swaps unless it costs."""
    size, ours, theirs = steps.shape[1], steps[here], steps[there]
    gain = np.where(_allowed(ours, theirs, most_empty), _gains(ours, theirs, cells), -_LAST)
    ties = np.frombuffer(rng.randbytes(gain.size), np.uint8).reshape(gain.shape)
    score = (gain * 256 + ties).reshape(len(here), -1)
    best = np.argmax(score, axis=1)
    good = score[np.arange(len(here)), best] >= 0
    i, j = (best // size)[good], (best % size)[good]
    here, there = here[good], there[good]
    steps[here, i], steps[there, j] = steps[there, j], steps[here, i]


def _allowed(ours: Steps, theirs: Steps, most_empty: int) -> NDArray[np.bool_]:
    """Which group i of one step may be swapped for which group j of another, so that neither gets too small.

    ours, theirs: (pairs, size). Returns (pairs, size, size). A group may go to an empty place of the other step where
    its own step has fewer than most_empty; two empty places are no swap.
    """
    a, b = ours < 0, theirs < 0
    stays, remains = (steps | (steps.sum(axis=1) >= most_empty)[:, None] for steps in (a, b))
    return ~(stays[:, :, None] & b[:, None, :] | a[:, :, None] & remains[:, None, :])


def _gains(ours: Steps, theirs: Steps, cells: Cells) -> NDArray[np.int32]:
    """Sub-batches that two steps save by swapping group i of one for group j of the other, or for an empty place.

    ours, theirs: (pairs, size). Returns (pairs, size, size).
    """
    a, b = cells[ours], cells[theirs]
    given, taken = _saved(a, b), _saved(b, a)
    gain = given.sum(2, np.int32)[:, :, None] + taken.sum(2, np.int32)[:, None, :]
    for i, j in product(range(a.shape[2]), repeat=2):
        # A cell that both groups have stays in both steps, so what it seemed to save or cost is taken off.
        gain -= (a[:, :, None, i] == b[:, None, :, j]) * (given[:, :, None, i] + taken[:, None, :, j])
    return gain


def _saved(cells: Cells, others: Cells) -> NDArray[np.int8]:
    """For each cell of a step's groups: 1 where only this group has it, less 1 where the other step has it not.

    Both (pairs, size, cells of a group); so is what is returned, with 0 for what fills up.
    """
    held, new = np.zeros(cells.shape, np.int16), np.ones(cells.shape, bool)
    for group, cell in np.ndindex(cells.shape[1:]):
        held += cells == cells[:, group, cell, None, None]
        new &= cells != others[:, group, cell, None, None]
    return ((held == 1).astype(np.int8) - new) * (cells >= 0)
