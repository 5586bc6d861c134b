"""sga_manifest.jsonl: one line per slice and per discard, so that every file can be traced to its source pixels."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sga_kohya.hsd.cut.decompose import Region
from sga_kohya.hsd.cut.geometry import Size
from sga_kohya.hsd.out.names import group_name, slice_stem
from sga_kohya.hsd.settings.config import HsdConfig
from sga_kohya.words import MANIFEST_NAME

MANIFEST = MANIFEST_NAME
NEAR_DUPLICATE = "near-duplicate"
UNREADABLE = "unreadable"
UNREADABLE_CAPTION = "unreadable caption"
REVIEW = "review"
"""Stands for the detector of a box that a person has drawn."""
UNREADABLE_MASK = "unreadable mask"


@dataclass(frozen=True, kw_only=True)
class Row:
    """file: below OUT, '/' separators, None for a discard. root: names the photo. group: what siblings share.

    parent: the file of the group's coarsest slice, None for that slice itself and where it was discarded. box: source
    pixels, upright. score, detector: None for a whole photo. label: what the detector took it for. scale: output over
    source pixels. upscaler: what enlarged it. super_resolved: that was a model. sha256, bytes: of the file.
    caption_sha256: of the caption as written here, so that one edited later is known. captioned: digest of what it
    depends on beside `inputs`, "" where a captioner failed. seen: what was detected in the group's region and has a
    name: name and box; in the first row of the group. source: below PHOTOS. inputs:
    digest of everything that the photo's rows depend on. source_size: width and height of the upright photo. phash:
    its perceptual hash, hexadecimal, "" for a blank one. mask_sha256: of its mask, None where it has none of its own.
    strip_sha256: of the group's picture in the report, and view_sha256: of the photo's. notes: what was changed in
    reading it. guessed_caption: words of a name that it trains on, "" where somebody wrote one. decided: the place of
    review/decisions.py that made or discarded it. reason: None for a slice, "kind: details" for a discard. A photo that
    a filter left out has one row, without group.
    """

    file: str | None = None
    root: str
    group: str | None = None
    parent: str | None = None
    granularity: str
    box: list[int] | None = None
    score: float | None = None
    detector: str | None = None
    label: str = ""
    scale: float | None = None
    upscaled: bool = False
    upscaler: str | None = None
    super_resolved: bool = False
    size: Size | None = None
    sha256: str | None = None
    bytes: int | None = None
    caption_sha256: str | None = None
    mask_sha256: str | None = None
    strip_sha256: str | None = None
    view_sha256: str | None = None
    captioned: str = ""
    seen: Sequence[tuple[str, Sequence[int]]] = ()
    source: str
    source_sha256: str | None
    source_size: Size | None = None
    inputs: str | None = None
    phash: str | None = None
    notes: Sequence[str] = ()
    guessed_caption: str = ""
    decided: str = ""
    reason: str | None

    moving: ClassVar[bool] = False
    """Whether it is of a clip."""

    def to_json(self) -> str:
        # Not dataclasses.asdict, which copies every value.
        return json.dumps(self.__dict__, ensure_ascii=False)

    @property
    def kind(self) -> str:
        """The part of a reason that all discards of its kind have in common, "" for a kept slice."""
        return (self.reason or "").split(":")[0]


@dataclass(frozen=True, kw_only=True)
class ClipRow(Row):
    """A row of a clip. frames: of the slice, 1 for an image; fps: at which they follow each other; start: seconds into
    the clip. None where nothing of the clip is used."""

    frames: int | None = None
    fps: float | None = None
    start: float | None = None
    moving: ClassVar[bool] = True


def row_of(fields: Mapping[str, Any]) -> Row:
    """A row as it was written. Raises TypeError where it has other fields."""
    return (ClipRow if "frames" in fields else Row)(**fields)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What all rows of one photo have in common; the fields as in Row."""

    root: str
    source: str
    source_sha256: str | None
    source_size: Size | None = None
    inputs: str | None = None
    phash: str | None = None
    notes: Sequence[str] = ()
    guessed_caption: str = ""


def region_rows(
    regions: Sequence[Region], origin: Origin, config: HsdConfig, detector: str, upscaler: str
) -> list[Row]:
    """One row per crop of a photo, in the order region, level, rank. detector, upscaler: their names."""
    rows = []
    for number, region in enumerate(regions, start=1):
        files = _file_names(region, origin.root, number, config)
        for i, (crop, file) in enumerate(zip(region.crops, files, strict=True)):
            upscaled = crop.kept and crop.scale is not None and crop.scale > 1
            row = Row(
                **origin.__dict__,
                file=file,
                group=group_name(origin.root, number),
                parent=files[0] if i > 0 else None,
                granularity=crop.level,
                # A detector may well answer in NumPy's numbers, which json refuses.
                box=[int(edge) for edge in crop.box.as_list()],
                score=None if crop.score is None else float(crop.score),
                detector=None if crop.score is None else REVIEW if crop.drawn else crop.detector or detector,
                label=crop.label,
                scale=None if crop.scale is None else round(crop.scale, 4),
                upscaled=upscaled,
                upscaler=upscaler if upscaled else None,
                super_resolved=upscaled and config.upscale_model is not None,
                size=crop.size,
                decided=crop.decided,
                seen=_named(region) if i == 0 else (),
                reason=crop.reason,
            )
            rows.append(row)
    return rows


def _named(region: Region) -> list[tuple[str, list[int]]]:
    return [(found.label, [int(edge) for edge in found.box.as_list()]) for found in region.seen if found.label]


def lost_row(origin: Origin, reason: str, config: HsdConfig) -> Row:
    """The one row of a photo of which nothing is used, before anything was sought in it."""
    return Row(**origin.__dict__, granularity=config.coarsest.name, reason=reason)


def _file_names(region: Region, root: str, number: int, config: HsdConfig) -> list[str | None]:
    """The file of each crop, None for discards. number: of the region in its photo, from 1."""
    folders = {level.name: level.folder for level in config.levels}
    rank = dict.fromkeys(folders, 0)
    names: list[str | None] = []
    for crop in region.crops:
        rank[crop.level] += crop.kept
        stem = slice_stem(root, number, rank[crop.level])
        names.append(f"{folders[crop.level]}/{stem}.{config.format}" if crop.kept else None)
    return names
