"""What a run made, for a person to read: a table, warnings with what to do, the next command."""

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from sga_kohya.hsd.config import HsdConfig, LevelConfig
from sga_kohya.hsd.dataset_toml import DATASET_TOML
from sga_kohya.hsd.images import EXTENSIONS
from sga_kohya.hsd.manifest import MANIFEST, Row
from sga_kohya.hsd.pipeline import Result

MANY = 0.5
"""Share of a level's slices above which their loss or smallness is worth a warning."""

SKIPPED = ("unreadable", "too small")
"""Kinds of reasons that leave nothing of a photo."""


def summarise(result: Result, config: HsdConfig, out: Path) -> str:
    """The whole report, without a final line break."""
    lines = [*_photos(result.rows), "", *_levels(result.rows, config), "", *_groups(result.rows), *_drops(result.rows)]
    notes = list(warnings(result, config, out))
    if notes:
        lines += ["", *(f"warning: {note}" for note in notes)]
    if any(row.file for row in result.rows):
        lines += ["", "next:", f"  {next_command(out)}"]
    return "\n".join(lines)


def next_command(out: Path) -> str:
    dataset = shlex.quote(str(out / DATASET_TOML))
    return f"accelerate launch -m sga_kohya.flux_train_network --config_file your.toml --dataset_config {dataset}"


def warnings(result: Result, config: HsdConfig, out: Path) -> Iterator[str]:
    """One sentence each: what is lost or doubtful, and what to do."""
    lost = [row for row in result.rows if row.granularity == config.coarsest.name and _kind(row) in SKIPPED]
    if lost:
        named = [f"{row.source} ({row.reason})" for row in lost[:5]]
        more = [f"and {len(lost) - 5} more, see {MANIFEST}"] if len(lost) > 5 else []
        yield f"{len(lost)} photos were skipped: {'; '.join(named + more)}"
    for level in config.finer:
        yield from _level_warning([row for row in result.rows if row.granularity == level.name], level, config)
    foreign = [file for file in result.foreign if Path(file).suffix.lower() in EXTENSIONS]
    if foreign:
        yield (
            f"{len(foreign)} images in {out} were not made here but would be trained too, such as {foreign[0]}: "
            "move them away or choose another OUT"
        )


def _level_warning(rows: Sequence[Row], level: LevelConfig, config: HsdConfig) -> Iterator[str]:
    """rows: those of the level."""
    sizes = [row.size for row in rows if row.size]
    small = [size for size in sizes if size[0] * size[1] < (level.resolution / 2) ** 2]
    dropped = sum(_kind(row) == "too small" for row in rows)
    if dropped > MANY * len(rows):
        yield (
            f"{dropped} of {len(rows)} {level.name} slices were dropped: even at {level.tau_up:g}x upscale they do not "
            f"reach min_size {config.min_size}. Use larger photos, or a smaller --min_size"
        )
    elif not sizes:
        yield f"no {level.name} slices at all: try another --detector, or leave the level out of --levels"
    elif len(small) > MANY * len(sizes):
        yield (
            f"{len(small)} of {len(sizes)} {level.name} slices are below half of resolution {level.resolution}: more "
            f"than {level.tau_up:g}x upscale would only blur. Use larger photos, or a smaller --resolution"
        )


def _photos(rows: Sequence[Row]) -> Iterator[str]:
    sources = {row.source for row in rows}
    used = {row.source for row in rows if row.file}
    yield f"photos   {len(sources)} found, {len(used)} used, {len(sources - used)} skipped"


def _levels(rows: Sequence[Row], config: HsdConfig) -> Iterator[str]:
    yield f"{'level':<12}{'slices':>8}{'dropped':>9}{'upscaled':>10}  most common size"
    for level in config.levels:
        ours = [row for row in rows if row.granularity == level.name]
        kept = [row for row in ours if row.file]
        share = f"{sum(row.upscaled for row in kept) / len(kept):.0%}" if kept else "-"
        sizes = Counter(f"{row.size[0]}x{row.size[1]}" for row in kept if row.size)
        common = sizes.most_common(1)[0][0] if sizes else "-"
        yield f"{level.name:<12}{len(kept):>8}{len(ours) - len(kept):>9}{share:>10}  {common}"


def _groups(rows: Sequence[Row]) -> Iterator[str]:
    levels: dict[str, set[str]] = {}
    for row in rows:
        if row.file and row.group:
            levels.setdefault(row.group, set()).add(row.granularity)
    sizes = Counter(map(len, levels.values()))
    counts = ", ".join(f"{sizes[k]} with K={k}" for k in sorted(sizes, reverse=True))
    yield f"groups   {len(levels)}" + (f": {counts}" if counts else "")


def _drops(rows: Sequence[Row]) -> Iterator[str]:
    kinds = Counter(_kind(row) for row in rows if row.reason)
    if kinds:
        yield "dropped  " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def _kind(row: Row) -> str:
    """The part of a reason that all discards of its kind have in common, "" for a kept slice."""
    return (row.reason or "").split(":")[0]
