"""What an export is: the file by which one trainer reads the slices, what that trainer makes of it, and what it cannot.

An export knows plain values only, nothing of how slices are cut.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sga_kohya.hsd.cut.geometry import Size
from sga_kohya.hsd.cut.sizes import BUCKET_STEPS

HEADER = "# Written by sga_kohya.hsd and rewritten by its next run here: edit a copy."

Caches = Mapping[str, list[Path]]
"""FOLDER/STEM of a slice to a trainer's caches of it."""


@dataclass(frozen=True)
class Level:
    """One folder of slices. folder: absolute. sizes: (width, height) to the number of slices, empty where there are
    none. offset: Delta of Eq. 29, added to the logit of the noise level. alpha: whether the slices' transparency is
    their mask. masks: the folder of the masks that lie beside them, None for none."""

    name: str
    folder: Path
    repeats: int
    offset: float
    sizes: Counter[Size]
    alpha: bool = False
    masks: Path | None = None

    @cached_property
    def side(self) -> int:
        """Of the square with the median area of the slices, in bucket steps; some trainers bring all to one area."""
        areas = sorted(width * height for width, height in self.sizes.elements())
        return round(math.sqrt(areas[len(areas) // 2]) / BUCKET_STEPS) * BUCKET_STEPS


@dataclass(frozen=True)
class Clips:
    """One folder of clips of one size and length. folder: absolute."""

    label: str
    folder: Path
    size: Size
    frames: int
    repeats: int


@dataclass(frozen=True)
class Dataset:
    """out: absolute. resolution: no slice has a larger area than its square. targets: the sizes a slice may have.

    levels: coarse to fine, those without slices as well. clips: likewise, of which each has one or more. png:
    whether every slice of photos is one, as masks beside them are.
    """

    out: Path
    batch_size: int
    resolution: int
    targets: Collection[Size]
    levels: tuple[Level, ...]
    clips: tuple[Clips, ...] = ()
    png: bool = True

    @property
    def present(self) -> tuple[Level, ...]:
        """The levels that have slices, one or more."""
        return tuple(level for level in self.levels if level.sizes)


@dataclass(frozen=True)
class Export:
    """name: as --export has it. trainer: as people call it. file: in OUT. write: its whole text.

    use: what to do with it, given its path and whether there are masks. gets, loses: a sentence each, of how SGA
    fares there. caches: finds the trainer's caches in OUT, which go with what they were made of. cache_folder: in
    OUT, "" where the trainer keeps them elsewhere. always: written without being asked for. use_clips: as `use`, where
    there are clips; None where the trainer is told of images alone. trainer_of_clips: as `trainer`, likewise.
    """

    name: str
    trainer: str
    file: str
    write: Callable[[Dataset], str]
    use: Callable[[Path, bool], list[str]]
    gets: str
    loses: str = ""
    caches: Callable[[Path], Caches] | None = None
    cache_folder: str = ""
    always: bool = False
    use_clips: Callable[[Path], list[str]] | None = None
    trainer_of_clips: str = ""


def quoted(value: object) -> str:
    """A string of TOML, YAML and JSON alike: JSON's escapes are a subset of theirs."""
    return json.dumps(str(value), ensure_ascii=False)
