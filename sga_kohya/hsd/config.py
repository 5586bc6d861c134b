"""Everything a decomposition depends on, in one frozen object that is checked once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from sga_kohya.errors import SgaError
from sga_kohya.hsd.detect import DETECTORS
from sga_kohya.hsd.geometry import Size
from sga_kohya.hsd.images import FORMATS
from sga_kohya.hsd.sizes import BUCKET_STEPS, target_sizes


@dataclass(frozen=True)
class LevelConfig:
    """One granularity level: the tuple (level, s, tau_down, tau_up) of Algorithm 1.

    resolution: pixels; its square is the largest area of a slice. sizes: the target sizes themselves, where those of
    the resolution are not wanted. tau_down >= 1: a crop this many times larger than its target, or less, is cut to the
    target at its own scale instead of being downsampled. tau_up >= 1: the largest upscale; a crop that needs more takes
    a smaller target, and is discarded where there is none. max_slices: per region.
    """

    name: str
    resolution: int = 1024
    sizes: tuple[Size, ...] = ()
    tau_down: float = 1.0
    tau_up: float = 2.0
    max_slices: int = 1
    repeats: int = 1

    def targets(self, min_size: int) -> tuple[Size, ...]:
        return self.sizes or target_sizes(self.resolution, min_size)

    @property
    def folder(self) -> str:
        """kohya's folder name: the number in front is the repeats that `--train_data_dir` reads."""
        return f"{self.repeats}_{self.name}"

    def problems(self, min_size: int) -> Iterator[str]:
        """What is wrong with this level, one sentence each, with the remedy."""
        if not self.name or not self.name.replace("-", "").isalnum():
            yield f"level name {self.name!r}: use letters, digits and '-'"
        if self.resolution % BUCKET_STEPS or self.resolution < min_size:
            yield (
                f"resolution {self.resolution} of level {self.name}: "
                f"use a multiple of {BUCKET_STEPS} of at least min_size {min_size}"
            )
        for width, height in self.sizes:
            if width % BUCKET_STEPS or height % BUCKET_STEPS or not 0 < width * height <= self.resolution**2:
                yield (
                    f"target size {width}x{height} of level {self.name}: use multiples of {BUCKET_STEPS} "
                    f"whose area is at most {self.resolution} squared"
                )
        for name in ("tau_down", "tau_up"):
            if getattr(self, name) < 1:
                yield f"{name} {getattr(self, name)} of level {self.name}: use 1 or more"
        for name in ("max_slices", "repeats"):
            if getattr(self, name) < 1:
                yield f"{name} {getattr(self, name)} of level {self.name}: use 1 or more"


DEFAULT_LEVELS = (LevelConfig("macro", tau_up=1.0), LevelConfig("meso"), LevelConfig("micro"))


@dataclass(frozen=True)
class HsdConfig:
    """Settings of Algorithm 1 and of its output. Raises one SgaError that lists every bad value with its remedy.

    levels: coarse to fine, two or more. redundant_iou: {(coarser, finer): threshold in (0, 1]}; pairs that are not
    listed are not compared; None compares all finer levels at 0.7. duplicate_overlap: IoU or containment in (0, 1]
    above which two boxes of one level are the same. min_size: shortest side of a slice in pixels; a photo below it is
    skipped. caption: text for photos without a caption file. batch_size: for dataset.toml.
    """

    levels: tuple[LevelConfig, ...] = DEFAULT_LEVELS
    detector: str = "heuristic"
    redundant_iou: Mapping[tuple[str, str], float] | None = None
    duplicate_overlap: float = 0.6
    min_size: int = 256
    format: str = "png"
    caption: str = ""
    batch_size: int = 1

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise SgaError("; ".join(problems))

    @property
    def coarsest(self) -> LevelConfig:
        return self.levels[0]

    @property
    def finer(self) -> tuple[LevelConfig, ...]:
        return self.levels[1:]

    @property
    def resolution(self) -> int:
        """The dataset's resolution: no slice of any level has a larger area than its square."""
        return max(level.resolution for level in self.levels)

    @cached_property
    def iou_thresholds(self) -> Mapping[tuple[str, str], float]:
        """{(coarser, finer): IoU above which the coarser slice is redundant}; other pairs are not compared."""
        if self.redundant_iou is not None:
            return self.redundant_iou
        return dict.fromkeys(combinations((level.name for level in self.finer), 2), 0.7)

    def _problems(self) -> Iterator[str]:
        names = [level.name for level in self.levels]
        if len(self.levels) < 2:
            yield f"levels {names}: give at least two, coarse to fine"
        # Folders that differ only in case are one folder on Windows and macOS.
        if len({name.casefold() for name in names}) < len(names):
            yield f"levels {names}: names must differ"
        for level in self.levels:
            yield from level.problems(self.min_size)
        for (coarser, finer), threshold in self.iou_thresholds.items():
            if coarser not in names or finer not in names or names.index(coarser) >= names.index(finer):
                yield f"IoU pair {coarser}/{finer}: name two of {names}, the coarser first"
            if not 0 < threshold <= 1:
                yield f"IoU threshold {threshold} of {coarser}/{finer}: use a number above 0, at most 1"
        if self.detector not in DETECTORS:
            yield f"detector {self.detector!r}: use one of {', '.join(sorted(DETECTORS))}"
        if not 0 < self.duplicate_overlap <= 1:
            yield f"duplicate_overlap {self.duplicate_overlap}: use a number above 0, at most 1"
        if self.min_size < BUCKET_STEPS or self.min_size % BUCKET_STEPS:
            yield f"min_size {self.min_size}: use a multiple of {BUCKET_STEPS}"
        if self.format not in FORMATS:
            yield f"format {self.format!r}: use one of {', '.join(FORMATS)}"
        if self.batch_size < 1:
            yield f"batch_size {self.batch_size}: use 1 or more"
