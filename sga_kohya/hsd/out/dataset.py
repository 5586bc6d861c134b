"""A finished run as exports see it."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sga_kohya.hsd.masks.sources import NONE, are_beside
from sga_kohya.hsd.out.exports.export import Dataset, Level
from sga_kohya.hsd.out.manifest import mask_folder
from sga_kohya.hsd.out.tally import Tally
from sga_kohya.hsd.settings.config import HsdConfig
from sga_kohya.words import DEFAULT_SHIFTS


def dataset_of(config: HsdConfig, out: Path, tally: Tally) -> Dataset:
    """out: absolute."""
    everywhere = [(own, level) for own in config.everywhere for level in own.levels]
    offsets = noise_offsets([level.name for level in config.levels])
    beside = are_beside(config.masks)
    levels = (
        Level(
            level.name,
            out / level.folder,
            level.repeats,
            offsets[level.name],
            Counter(tally.levels[level.name].sizes),
            alpha=config.masks != NONE and not beside,
            masks=out / mask_folder(level.folder) if beside else None,
        )
        for level in config.levels
    )
    targets = {size for own, level in everywhere for size in level.targets(own.min_size)}
    png = all(own.format == "png" for own in config.everywhere)
    return Dataset(out, config.batch_size, config.resolution, targets, tuple(levels), png)


def noise_offsets(levels: Sequence[str]) -> dict[str, float]:
    """Delta of each level: the paper's where all have its names, else as far apart as there, in equal steps.

    levels: coarse to fine, two or more.
    """
    if set(levels) <= DEFAULT_SHIFTS.keys():
        return {name: DEFAULT_SHIFTS[name] for name in levels}
    return {name: round(0.5 - rank / (len(levels) - 1), 3) for rank, name in enumerate(levels)}
