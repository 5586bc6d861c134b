"""The groups of a data set in columns: a million of them take sixteen bytes a slice beside the host's own keys."""

from array import array
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from sga_kohya.tuples.step import Group, Slice


class Cell(NamedTuple):
    """What slices share that can be stacked and have one weight."""

    granularity: str | None
    dataset: int
    bucket: Hashable


class Groups(Sequence[Group]):
    """Groups of slices; a group is made when it is asked for.

    cells: what the numbers in `cell` mean. keys, cell: of each slice, those of a group side by side. ends: of each
    group in `keys`, exclusive.
    """

    def __init__(self, cells: Sequence[Cell], keys: list[str], cell: NDArray[np.int32], ends: NDArray[np.int32]):
        self.cells, self.keys, self.cell, self.ends = cells, keys, cell, ends

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> Group: ...

    @overload
    def __getitem__(self, index: slice) -> list[Group]: ...

    def __getitem__(self, index: int | slice) -> Group | list[Group]:
        found = range(len(self))[index]
        return self._group(found) if isinstance(found, int) else [self._group(number) for number in found]

    def __iter__(self) -> Iterator[Group]:
        return map(self._group, range(len(self)))

    @property
    def slices(self) -> int:
        """How many there are in all groups."""
        return len(self.keys)

    def members(self, number: int) -> Iterator[tuple[Cell, str]]:
        """The cell and the key of each slice of a group."""
        here = slice(self.ends[number - 1] if number else 0, self.ends[number])
        return zip((self.cells[code] for code in self.cell[here].tolist()), self.keys[here], strict=True)

    def counts(self) -> dict[Cell, int]:
        """How many slices each cell has."""
        counts = np.bincount(self.cell, minlength=len(self.cells))
        return dict(zip(self.cells, counts.tolist(), strict=True))

    def table(self) -> NDArray[np.int32]:
        """Numbers of the cells of each group, each once and descending, (groups, most of one), filled up with -1."""
        lengths = np.diff(self.ends, prepend=0)
        table = np.full((len(self), lengths.max(initial=0)), -1, np.int32)
        table[np.arange(table.shape[1]) < lengths[:, None]] = self.cell
        table.sort(axis=1)
        table[:, 1:][table[:, 1:] == table[:, :-1]] = -1
        return -np.sort(-table, axis=1)

    def _group(self, number: int) -> Group:
        return tuple(Slice(cell.dataset, key, cell.granularity, cell.bucket) for cell, key in self.members(number))


def form_groups(slices: Iterable[tuple[Slice, str | None]]) -> Groups:
    """Join slices that share a group name; a slice named None is a group of its own.

    A slice that occurs r times (repeats, several datasets) makes r copies of its group; copy j takes the j-th
    occurrence of each slice that has so many, so that nothing is dropped and nothing is used twice.
    """
    cells: dict[Cell, int] = {}
    names: dict[str, int] = {}
    keys: list[str] = []
    cell, name_of = array("i"), array("i")
    for item, name in slices:
        keys.append(item.key)
        cell.append(cells.setdefault(Cell(item.granularity, item.dataset, item.bucket), len(cells)))
        name_of.append(-1 if name is None else names.setdefault(name, len(names)))
    order, lengths = _side_by_side(np.frombuffer(name_of, np.int32), len(names), keys)
    return Groups(
        cells=list(cells),
        keys=[keys[place] for place in order],
        cell=np.frombuffer(cell, np.int32)[order],
        ends=np.cumsum(lengths, dtype=np.int32),
    )


def _side_by_side(name_of: NDArray[np.int32], names: int, keys: Sequence[str]) -> tuple[array, array]:
    """The slices in the order of their groups, and how many slices each group has. Those without a name come last."""
    by_name = np.argsort(name_of, kind="stable")
    alone = int(np.searchsorted(name_of[by_name], 0))
    order, lengths, start = array("i"), array("i"), alone
    for count in np.bincount(name_of[by_name[alone:]], minlength=names).tolist():
        for copy in _copies(by_name[start : start + count].tolist(), keys):
            order.extend(copy)
            lengths.append(len(copy))
        start += count
    order.extend(by_name[:alone].tolist())
    lengths.extend([1] * alone)
    return order, lengths


def _copies(members: list[int], keys: Sequence[str]) -> Iterable[list[int]]:
    if len({keys[place] for place in members}) == len(members):
        return [members]
    copies: dict[int, list[int]] = defaultdict(list)
    seen: dict[str, int] = {}
    for place in members:
        occurrence = seen.get(keys[place], 0)
        seen[keys[place]] = occurrence + 1
        copies[occurrence].append(place)
    return copies.values()


def granularities(group: Group) -> frozenset[str | None]:
    """The set whose size is K."""
    return frozenset(item.granularity for item in group)
