"""Everything a decomposition depends on, in one frozen object that is checked once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.hsd.captioners.captioner import CAPTIONERS, INHERIT
from sga_kohya.hsd.clips.labels import DEFAULT_LABELS, SPATIAL, TEMPORAL, Label, frames_problems, parse_labels
from sga_kohya.hsd.clips.labels import MODES as MODES_OF_CLIPS
from sga_kohya.hsd.clips.labels import problems as label_problems
from sga_kohya.hsd.cut.geometry import Size
from sga_kohya.hsd.cut.sizes import BUCKET_STEPS, target_sizes
from sga_kohya.hsd.detect import DETECTORS
from sga_kohya.hsd.masks.sources import ALPHA, DETECTOR, NONE, is_masks
from sga_kohya.hsd.out.exports import EXPORTS
from sga_kohya.hsd.photos.images import FORMATS
from sga_kohya.kit.hints import did_you_mean

MOST_FPS = 120


class ConfigError(SgaError):
    """Everything that is wrong with a configuration."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class LevelConfig:
    """One granularity level: the tuple (level, s, tau_down, tau_up) of Algorithm 1.

    resolution: pixels; its square is the largest area of a slice. sizes: the target sizes themselves, where those of
    the resolution are not wanted. tau_down >= 1: a crop this many times larger than its target, or less, is cut to the
    target at its own scale instead of being downsampled. tau_up >= 1: the largest upscale; a crop that needs more takes
    a smaller target, and is discarded where there is none. own_scale: prefers a target that needs no upscale, with more
    of the surroundings where that helps. margin: around a detected box, over its width and height, on every side.
    min_detail: what a slice has in its middle frequencies at least (`cut.quality`), in grey levels of 256; 0 takes all.
    detector: the level's own, "" for the one of all levels. max_slices: per region; of the coarsest level: regions per
    photo, where mode is "split". caption_prefix: put into the level's captions, in front ("close-up of") or, if it is a
    tag of its own ("close-up, "), behind the trigger word.
    """

    name: str
    resolution: int = 1024
    sizes: tuple[Size, ...] = ()
    tau_down: float = 1.0
    tau_up: float = 2.0
    own_scale: bool = False
    margin: float = 0.0
    min_detail: float = 0.0
    max_slices: int = 1
    repeats: int = 1
    detector: str = ""
    caption_prefix: str = ""

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
        for name in ("tau_down", "tau_up", "max_slices", "repeats"):
            # Not `< 1`: that lets nan pass.
            if not getattr(self, name) >= 1:
                yield f"{name} {getattr(self, name)} of level {self.name}: use 1 or more"
        if not 0 <= self.margin <= MOST_MARGIN:
            yield f"margin {self.margin} of level {self.name}: use a share of the box's sides from 0 to {MOST_MARGIN:g}"
        if not 0 <= self.min_detail <= 255:
            yield f"min_detail {self.min_detail} of level {self.name}: use grey levels from 0, which takes all, to 255"


MOST_MARGIN = 2.0
BY_ROLE: Mapping[str, Mapping[str, Any]] = {
    "macro": {"tau_up": 1.0},
    "meso": {"min_detail": 2.0},
    # It is there for fine detail, of which an enlargement has none.
    "micro": {"tau_up": 1.25, "own_scale": True, "min_detail": 3.0},
}
"""What a level has where nobody says otherwise."""
DEFAULT_LEVELS = tuple(LevelConfig(name, **settings) for name, settings in BY_ROLE.items())
MODES = ("whole", "split")
REGIONS = 4
"""Regions per photo in split mode where the coarsest level does not say."""
CLIP_KEYS = ("clips", "clip_fps", "clip_frames", "clip_resolution", "clip_segments", "clip_shots", "clip_labels")
RUN_WIDE = ("batch_size", "export", "masks", "near_duplicates", *CLIP_KEYS)
"""Settings of the whole run, which no sub-folder can have for itself."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text.strip() else ()


@dataclass(frozen=True)
class HsdConfig:
    """Settings of Algorithm 1 and of its output. Raises one ConfigError that lists every bad value with its remedy.

    levels: coarse to fine, two or more. mode: "whole", a photo is one region, or several, end to end, where it is too
    long for any size; or "split", its regions are what the detector finds for the coarsest level. detector: one, or
    several separated by commas, of which the next is asked where one finds nothing. detector_options: checked by the
    detector itself; of several, those of one stand behind its name and a dot. device: "" for automatic.
    redundant_iou: {(coarser, finer): threshold in (0, 1]}; pairs that are not listed are not compared; None compares
    all finer levels at 0.7. duplicate_overlap: IoU or containment in (0, 1] above which two boxes of one level are the
    same. near_duplicates: largest number of differing bits, 0 to 64, of the perceptual hashes of two photos of which
    the later is left out; -1 keeps all, also clips that are one file. min_size: shortest side of a slice in pixels; a
    photo below it is skipped. upscale_model: ESRGAN weights, None for Lanczos. masks: what counts in training: NONE,
    ALPHA, DETECTOR, or a folder of pictures named as the photos. caption: text for photos without a caption file, which
    otherwise train on words of their folder or name. captioner: registered, or package.module:function.
    captioner_options: checked by the captioner itself. drop_tags: leave out tags of what a slice does not show.
    batch_size: for dataset.toml. export: further trainers to write a file for. clips: one of MODES of clips/labels.py.
    clip_fps: frames a second of their slices. clip_frames, clip_resolution: of spatial slices, as of a level;
    clip_segments: parts of one clip that are cut, each a group, at most; clip_shots: none goes across a cut.
    clip_labels: of temporal slices, long to short. overrides: sub-folder of PHOTOS, with '/', to the settings of the
    photos below it.
    """

    levels: tuple[LevelConfig, ...] = DEFAULT_LEVELS
    mode: str = "whole"
    detector: str = "heuristic"
    detector_options: Mapping[str, object] = field(default_factory=dict)
    device: str = ""
    redundant_iou: Mapping[tuple[str, str], float] | None = None
    duplicate_overlap: float = 0.6
    near_duplicates: int = 4
    min_size: int = 256
    format: str = "png"
    upscale_model: Path | None = None
    masks: str = NONE
    caption: str = ""
    captioner: str = INHERIT
    captioner_options: Mapping[str, object] = field(default_factory=dict)
    drop_tags: bool = True
    batch_size: int = 1
    export: tuple[str, ...] = ()
    clips: str = SPATIAL
    clip_fps: float = 16.0
    clip_frames: int = 33
    clip_resolution: int = 512
    clip_segments: int = 1
    clip_shots: bool = False
    clip_labels: tuple[Label, ...] = parse_labels(DEFAULT_LABELS)
    overrides: Mapping[str, "HsdConfig"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise ConfigError(problems)

    def override_of(self, source: str) -> str:
        """The deepest folder of `overrides` that the photo `source` (below PHOTOS) lies in, "" for none."""
        parents = PurePosixPath(source).parents
        return next((str(folder) for folder in parents if str(folder) in self.overrides), "")

    def of(self, override: str) -> "HsdConfig":
        """The settings of an override, these for ""."""
        return self.overrides.get(override, self)

    @property
    def everywhere(self) -> tuple["HsdConfig", ...]:
        """These settings and those of every override."""
        return self, *self.overrides.values()

    @property
    def coarsest(self) -> LevelConfig:
        return self.levels[0]

    @property
    def finer(self) -> tuple[LevelConfig, ...]:
        return self.levels[1:]

    @property
    def detector_names(self) -> tuple[str, ...]:
        """The detectors of all levels, in the order in which they are asked."""
        return _names(self.detector)

    @property
    def detectors(self) -> dict[str, tuple[str, ...]]:
        """The detectors of each level, likewise."""
        return {level.name: _names(level.detector) or self.detector_names for level in self.levels}

    @property
    def detected(self) -> list[str]:
        """The levels that a detector is asked for: a whole photo is one crop of the coarsest level."""
        return [level.name for level in (self.levels if self.mode == "split" else self.finer)]

    @property
    def resolution(self) -> int:
        """The dataset's resolution: no slice of any level has a larger area than its square."""
        return max(level.resolution for config in self.everywhere for level in config.levels)

    @cached_property
    def iou_thresholds(self) -> Mapping[tuple[str, str], float]:
        """{(coarser, finer): IoU above which the coarser slice is redundant}; other pairs are not compared."""
        if self.redundant_iou is not None:
            return self.redundant_iou
        return dict.fromkeys(combinations((level.name for level in self.finer), 2), 0.7)

    def _problems(self) -> Iterator[str]:
        yield from self._level_problems()
        yield from self._name_problems()
        yield from self._number_problems()
        yield from self._clip_problems()
        for folder, override in self.overrides.items():
            yield from (f'overrides."{folder}": {problem}' for problem in self._disagreements(override))

    def _level_problems(self) -> Iterator[str]:
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

    def _name_problems(self) -> Iterator[str]:
        """Of what is chosen by name."""
        if self.mode not in MODES:
            yield f"mode {self.mode!r}: use one of {', '.join(MODES)}"
        named = (*(self.detector_names or ("",)), *(name for names in self.detectors.values() for name in names))
        yield from (DETECTORS.refusal(name) for name in dict.fromkeys(named) if not DETECTORS.knows(name))
        if not CAPTIONERS.knows(self.captioner):
            yield CAPTIONERS.refusal(self.captioner)
        if self.format not in FORMATS:
            yield f"format {self.format!r}: use one of {', '.join(FORMATS)}"
        if not is_masks(self.masks):
            yield f"masks {self.masks!r}: no such folder; use {ALPHA}, {DETECTOR}, or a folder of masks"
        if self.masks == ALPHA and self.format == "jpg":
            yield f"masks {ALPHA!r}: a JPEG holds no transparency, use format png or webp"
        for name in self.export:
            if name not in EXPORTS:
                yield f"export {name!r}: {did_you_mean(name, EXPORTS)}"

    def _number_problems(self) -> Iterator[str]:
        """Of what has to lie between bounds, be a file, or be text that can be written."""
        if not 0 < self.duplicate_overlap <= 1:
            yield f"duplicate_overlap {self.duplicate_overlap}: use a number above 0, at most 1"
        if not -1 <= self.near_duplicates <= 64:
            yield f"near_duplicates {self.near_duplicates}: use 0 to 64 differing bits, or -1 to keep all"
        if self.upscale_model is not None and not self.upscale_model.is_file():
            yield f"upscale_model {self.upscale_model}: no such file"
        if self.min_size < BUCKET_STEPS or self.min_size % BUCKET_STEPS:
            yield f"min_size {self.min_size}: use a multiple of {BUCKET_STEPS}"
        if any("\ud800" <= character <= "\udfff" for character in self.caption):
            yield f"caption {self.caption!a}: not UTF-8, which captions have to be: type it again in a UTF-8 terminal"
        if self.batch_size < 1:
            yield f"batch_size {self.batch_size}: use 1 or more"

    def _clip_problems(self) -> Iterator[str]:
        if self.clips not in MODES_OF_CLIPS:
            yield f"clips {self.clips!r}: use one of {', '.join(MODES_OF_CLIPS)}"
        if not 1 <= self.clip_fps <= MOST_FPS:
            yield f"clip_fps {self.clip_fps:g}: use frames a second from 1 to {MOST_FPS}"
        if self.clip_segments < 1:
            yield f"clip_segments {self.clip_segments}: use 1 or more"
        yield from frames_problems(f"clip_frames {self.clip_frames}", self.clip_frames)
        yield from label_problems(self.clip_labels)
        resolutions = {"clip_resolution": self.clip_resolution}
        resolutions |= {f"clip_labels {label}": label.resolution for label in self.clip_labels}
        for where, resolution in resolutions.items():
            if resolution % BUCKET_STEPS or resolution < 2 * BUCKET_STEPS:
                yield f"{where}: resolution {resolution}, use a multiple of {BUCKET_STEPS}, {2 * BUCKET_STEPS} or more"
        names = {level.name.casefold() for level in self.levels}
        shared = [label.name for label in self.clip_labels if label.name.casefold() in names]
        if self.clips == TEMPORAL and shared:
            yield f"clip_labels {', '.join(shared)}: so are levels of photos called, use other names"

    def _disagreements(self, override: "HsdConfig") -> Iterator[str]:
        """What an override has different although the slices of all photos share it."""
        ours = {level.name: level.repeats for level in self.levels}
        theirs = {level.name: level.repeats for level in override.levels}
        if list(theirs) != [name for name in ours if name in theirs]:
            yield f"levels {list(theirs)}: use some of {list(ours)}, in the same order"
        for name in theirs.keys() & ours.keys():
            if theirs[name] != ours[name]:
                yield f"repeats {theirs[name]} of level {name}: all photos have {ours[name]}, as one folder holds them"
        for name in RUN_WIDE:
            if getattr(override, name) != getattr(self, name):
                yield f"{name}: it is set once, for all photos"
        if override.overrides:
            yield "overrides: name the deeper folder beside this one"
