"""The settings of clips as a configuration of their own: the same rules, other sizes, and a level for each label."""

from dataclasses import replace

from sga_kohya.hsd.clips.labels import BOTH, OFF, SPATIAL, Label
from sga_kohya.hsd.cut.geometry import Size
from sga_kohya.hsd.cut.sizes import BUCKET_STEPS, target_sizes
from sga_kohya.hsd.settings.config import HsdConfig, LevelConfig

LONGEST = 4
"""Length over width up to which musubi-tuner caches a clip at exactly the `resolution` of its data set."""


def clip_sizes(resolution: int, min_size: int) -> tuple[Size, ...]:
    return tuple(size for size in target_sizes(resolution, min_size) if max(size) <= LONGEST * min(size))


def smallest_side(config: HsdConfig, resolution: int) -> int:
    """The shortest side of a slice, as of photos, or half the resolution where that is less, so that not every slice
    is a square."""
    return min(config.min_size, max(BUCKET_STEPS, resolution // 2 // BUCKET_STEPS * BUCKET_STEPS))


def spatial(config: HsdConfig, resolution: int) -> HsdConfig:
    """The levels of photos at a clip's resolution."""
    least = smallest_side(config, resolution)
    sizes = clip_sizes(resolution, least)
    levels = tuple(replace(level, resolution=resolution, sizes=sizes) for level in config.levels)
    return replace(config, levels=levels, min_size=least, overrides={})


def temporal_level(config: HsdConfig, label: Label, name: str = "") -> LevelConfig:
    """Of the whole picture for a time: as the coarsest level, which is not enlarged."""
    sizes = clip_sizes(label.resolution, smallest_side(config, label.resolution))
    return replace(
        config.coarsest, name=name or label.name, resolution=label.resolution, sizes=sizes, repeats=1, caption_prefix=""
    )


def of_clips(config: HsdConfig) -> HsdConfig:
    """With the levels that clips have, coarse to fine, those of `both` with names such as shot-micro. Where they are no
    levels of photos, `clips` is off in it: it is no configuration of a run."""
    if config.clips == OFF:
        return config
    if config.clips == SPATIAL:
        return spatial(config, config.clip_resolution)
    least = min(smallest_side(config, label.resolution) for label in config.clip_labels)
    if config.clips != BOTH:
        levels = tuple(temporal_level(config, label) for label in config.clip_labels)
        return replace(config, levels=levels, clips=OFF, min_size=least, redundant_iou={}, overrides={})
    levels = tuple(
        replace(level, name=product(label.name, level.name))
        for label in config.clip_labels
        for level in spatial(config, label.resolution).levels
    )
    return replace(config, levels=levels, clips=OFF, mode="whole", min_size=least, redundant_iou={}, overrides={})


def product(label: str, level: str) -> str:
    return f"{label}-{level}"
