"""Counts over the rows of clips, kept while they stream by."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sga_kohya.hsd.cut.geometry import Size
from sga_kohya.hsd.out.manifest import ClipRow, Row
from sga_kohya.hsd.out.tally import Tally


class ClipSet(NamedTuple):
    """Slices of one label that have one size and one length: a folder, and a data set. frames: 1 of images."""

    label: str
    folder: str
    size: Size
    frames: int


class ClipTally(Tally):
    """As of photos; `photos` counts clips. sets: to slices."""

    unit = "clip"

    def __init__(self, levels: Iterable[str]) -> None:
        super().__init__(levels)
        self.sets: Counter[ClipSet] = Counter()

    def add(self, rows: Sequence[Row], new: bool = True) -> None:
        super().add(rows, new)
        for row in rows:
            if isinstance(row, ClipRow) and row.file and row.size and row.frames:
                folder = row.file.partition("/")[0]
                self.sets[ClipSet(row.granularity, folder, (row.size[0], row.size[1]), row.frames)] += 1

    @property
    def moving(self) -> int:
        """Slices that are clips, not images."""
        return sum(count for one, count in self.sets.items() if one.frames > 1)

    def lengths(self, label: str) -> Counter[int]:
        """Frames to slices, of one label."""
        found: Counter[int] = Counter()
        for one, count in self.sets.items():
            found[one.frames] += count if one.label == label else 0
        return +found
