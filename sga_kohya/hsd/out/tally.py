"""Counts over the rows of a run, kept while they stream by."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import ClassVar

from sga_kohya.hsd.cut.choosing import DUPLICATE, SURPLUS
from sga_kohya.hsd.cut.geometry import Size
from sga_kohya.hsd.out.manifest import MANIFEST, Row
from sga_kohya.kit.text import safe

CROPPED = 0.75
"""Share of a photo below which its only region is said to lose much of it."""
LONG = "much is unused"
NOT_LOOKED_INTO = ("no region", "too small", DUPLICATE, SURPLUS)
"""Kinds of discards of a coarsest crop in which no finer level was sought."""
NAMED = 5
"""Examples that are kept by name."""


@dataclass
class LevelTally:
    """Of one level. too_small, plain, spare: of the dropped ones, by their kind of reason. sizes: of the kept ones.

    scales: of the enlarged ones, in hundredths. unseen: regions in which nothing was found for it.
    """

    kept: int = 0
    dropped: int = 0
    too_small: int = 0
    plain: int = 0
    spare: int = 0
    upscaled: int = 0
    super_resolved: int = 0
    unseen: int = 0
    sizes: Counter[Size] = field(default_factory=Counter)
    scales: Counter[int] = field(default_factory=Counter)

    @property
    def enlargement(self) -> float:
        """Median of what the enlarged slices were enlarged by, 1 where none was."""
        return median(self.scales.elements()) / 100 if self.scales else 1.0

    def add(self, row: Row) -> None:
        if row.file is None or row.size is None:
            self.dropped += 1
            self.too_small += row.kind == "too small"
            self.plain += row.kind == "no detail"
            self.spare += row.kind in (DUPLICATE, SURPLUS)
            return
        self.kept += 1
        self.upscaled += row.upscaled
        self.super_resolved += row.super_resolved
        self.sizes[(row.size[0], row.size[1])] += 1
        if row.upscaled and row.scale is not None:
            self.scales[round(100 * row.scale)] += 1


class Tally:
    """photos, used, regions: counts. group_sizes: K to groups. reasons: kind to discards. lost: photos without a slice.

    cropped: photos taken as one region that lose much of themselves, being too long for any size. guessed: words of
    names that photos train on for want of a caption, to photos. examples: safe to print.
    """

    unit: ClassVar[str] = "photo"

    def __init__(self, levels: Iterable[str]) -> None:
        self.levels = {name: LevelTally() for name in levels}
        self.photos = self.used = self.reused = self.regions = 0
        self.group_sizes: Counter[int] = Counter()
        self.reasons: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.guessed: Counter[str] = Counter()
        self.cropped = 0
        self.examples: dict[str, list[str]] = {}

    def add(self, rows: Sequence[Row], new: bool = True) -> None:
        """rows: of one photo. new: made in this run."""
        self.photos += 1
        self.reused += not new
        kept = [row for row in rows if row.file]
        self.used += bool(kept)
        groups: dict[str | None, set[str]] = {}
        for row in rows:
            self.reasons[row.kind] += row.file is None
            # A photo of which nothing was sought is no discard of a level.
            if row.group is not None:
                # One that the settings no longer have, of a photo that cannot be read now, is counted as well.
                self.levels.setdefault(row.granularity, LevelTally()).add(row)
        self._note_unseen(rows)
        for row in kept:
            groups.setdefault(row.group, set()).add(row.granularity)
        self.group_sizes.update(map(len, groups.values()))
        for note in rows[0].notes:
            self._example(note, rows[0].source)
            self.notes[note] += 1
        self._note_crop(kept)
        if kept and rows[0].guessed_caption:
            self.guessed[rows[0].guessed_caption] += 1
        if not kept:
            self.lost[rows[0].kind] += 1
            details = (rows[0].reason or "").partition(":")[2].strip()
            self._example(rows[0].kind, f"{rows[0].source} ({details})")

    @property
    def present(self) -> set[str]:
        """Names of the levels that have slices."""
        return {name for name, level in self.levels.items() if level.kept}

    def some(self, kind: str, count: int) -> str:
        """The examples of a kind of which there are so many, for a sentence."""
        named = self.examples[kind]
        return ", ".join(named) + (f", and {count - len(named)} more, see {MANIFEST}" if count > len(named) else "")

    def _note_unseen(self, rows: Sequence[Row]) -> None:
        """The levels of which a region has no row, kept or not; one that was itself left out was not looked into."""
        coarsest, *finer = self.levels
        seen: dict[str, set[str]] = {}
        for row in rows:
            if row.group is not None:
                seen.setdefault(row.group, set()).add(row.granularity)
        lost = {row.group for row in rows if row.granularity == coarsest and row.kind in NOT_LOOKED_INTO}
        for levels in (levels for group, levels in seen.items() if group not in lost):
            self.regions += 1
            for name in finer:
                self.levels[name].unseen += name not in levels

    def _note_crop(self, kept: Sequence[Row]) -> None:
        """kept: of one photo, whose regions, where nobody detected them, share it."""
        # A whole photo has no score.
        boxes = [row.box for row in kept if row.score is None and row.box is not None]
        if not boxes or kept[0].source_size is None:
            return
        width, height = kept[0].source_size
        share = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes) / (width * height)
        if share < CROPPED:
            self.cropped += 1
            self._example(LONG, f"{kept[0].source} ({width}x{height}, {share:.0%} used)")

    def _example(self, kind: str, text: str) -> None:
        named = self.examples.setdefault(kind, [])
        if len(named) < NAMED:
            named.append(safe(text))
