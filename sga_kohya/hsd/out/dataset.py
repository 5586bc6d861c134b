"""A finished run as exports see it."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sga_kohya.hsd.clips.levels import of_clips
from sga_kohya.hsd.clips.tally import ClipTally
from sga_kohya.hsd.masks.sources import NONE, are_beside
from sga_kohya.hsd.out.exports.export import Clips, Dataset, Level
from sga_kohya.hsd.out.files import mask_folder
from sga_kohya.hsd.out.tally import Tally
from sga_kohya.hsd.settings.config import HsdConfig
from sga_kohya.words import DEFAULT_SHIFTS


def dataset_of(config: HsdConfig, out: Path, tally: Tally, film: ClipTally | None = None) -> Dataset:
    """out: absolute. film: of the clips, whose images are a level like any other."""
    everywhere = [(own, level) for own in config.everywhere for level in own.levels]
    offsets = noise_offsets([level.name for level in config.levels])
    beside = are_beside(config.masks)
    levels = [
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
    ]
    targets = {size for own, level in everywhere for size in level.targets(own.min_size)}
    png = all(own.format == "png" for own in config.everywhere)
    if film is None:
        return Dataset(out, config.batch_size, config.resolution, targets, tuple(levels), png=png)
    images = stills(film, out)
    targets |= {size for level in images for size in level.sizes}
    resolutions = [level.resolution for level in of_clips(config).levels] if images else []
    largest = max(config.resolution, *resolutions, 0)
    return Dataset(out, config.batch_size, largest, targets, (*levels, *images), movies(film, config, out), png)


def stills(film: ClipTally, out: Path) -> list[Level]:
    """The images that were taken of clips. No Delta has been measured for labels in time: their offset is 0."""
    found: dict[str, Level] = {}
    for one, count in film.sets.items():
        if one.frames == 1:
            repeats = int(one.folder.partition("_")[0])
            level = found.setdefault(one.label, Level(one.label, out / one.folder, repeats, 0.0, Counter()))
            level.sizes[one.size] += count
    return [found[name] for name in film.levels if name in found]


def movies(film: ClipTally, config: HsdConfig, out: Path) -> tuple[Clips, ...]:
    """By label, coarse to fine, then by size and length."""
    repeats = {level.name: level.repeats for level in of_clips(config).levels}
    order = list(film.levels)
    moving = [one for one in film.sets if one.frames > 1]
    moving.sort(key=lambda one: (order.index(one.label), one.size, one.frames))
    return tuple(Clips(one.label, out / one.folder, one.size, one.frames, repeats.get(one.label, 1)) for one in moving)


def noise_offsets(levels: Sequence[str]) -> dict[str, float]:
    """Delta of each level: the paper's where all have its names, else as far apart as there, in equal steps.

    levels: coarse to fine, two or more.
    """
    if set(levels) <= DEFAULT_SHIFTS.keys():
        return {name: DEFAULT_SHIFTS[name] for name in levels}
    return {name: round(0.5 - rank / (len(levels) - 1), 3) for rank, name in enumerate(levels)}
