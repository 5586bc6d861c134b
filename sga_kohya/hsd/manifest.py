"""sga_manifest.jsonl: one line per slice and per discard, so that every file can be traced to its source pixels."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from sga_kohya.hsd.config import HsdConfig
from sga_kohya.hsd.decompose import Group
from sga_kohya.hsd.geometry import Size
from sga_kohya.hsd.names import group_name, slice_stem

MANIFEST = "sga_manifest.jsonl"


@dataclass(frozen=True, kw_only=True)
class Row:
    """file: below OUT, '/' separators, None for a discard. root: names the photo. group: what siblings share.

    parent: the file of the group's coarsest slice, None for that slice itself and where it was discarded. box: source
    pixels, upright. score, detector: None for a whole photo. scale: output over source pixels. source: below PHOTOS.
    reason: None for a slice, "kind: details" for a discard. An unreadable photo has one row, without group.
    """

    file: str | None = None
    root: str
    group: str | None = None
    parent: str | None = None
    granularity: str
    box: list[int] | None = None
    score: float | None = None
    detector: str | None = None
    scale: float | None = None
    upscaled: bool = False
    super_resolved: bool = False
    size: Size | None = None
    source: str
    source_sha256: str | None
    reason: str | None

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)


def group_rows(
    groups: Sequence[Group], source: str, root: str, sha256: str | None, config: HsdConfig, detector: str
) -> list[Row]:
    """One row per slice of a photo, in the order region, level, rank."""
    rows = []
    for region, group in enumerate(groups, start=1):
        files = _file_names(group, root, region, config)
        for i, (piece, file) in enumerate(zip(group.slices, files, strict=True)):
            row = Row(
                file=file,
                root=root,
                group=group_name(root, region),
                parent=files[0] if i > 0 else None,
                granularity=piece.level,
                # A detector may well answer in NumPy's numbers, which json refuses.
                box=[int(edge) for edge in piece.box.as_list()],
                score=None if piece.score is None else float(piece.score),
                detector=None if piece.score is None else detector,
                scale=None if piece.scale is None else round(piece.scale, 4),
                upscaled=piece.kept and piece.scale is not None and piece.scale > 1,
                size=piece.size,
                source=source,
                source_sha256=sha256,
                reason=piece.reason,
            )
            rows.append(row)
    return rows


def unusable_row(source: str, root: str, sha256: str | None, reason: str, config: HsdConfig) -> Row:
    """The row of a photo that could not be read."""
    return Row(root=root, granularity=config.coarsest.name, source=source, source_sha256=sha256, reason=reason)


def caption_file(file: str) -> str:
    """The caption beside a slice, as sd-scripts looks for it."""
    return str(PurePosixPath(file).with_suffix(".txt"))


def read_files(manifest: Path) -> set[str]:
    """The slices and captions that a manifest lists, none when there is no manifest.

    Only names of the form FOLDER/FILE count, and a line cut short by a kill is passed over: the result decides what a
    later run may delete.
    """
    if not manifest.is_file():
        return set()
    with manifest.open(encoding="utf-8", errors="replace") as lines:
        files = {file for file in map(_file_of, lines) if file and _is_plain(file)}
    return files | {caption_file(file) for file in files}


def _file_of(line: str) -> str | None:
    try:
        return json.loads(line)["file"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return None


def _is_plain(file: str) -> bool:
    parts = PurePosixPath(file).parts
    return len(parts) == 2 and ".." not in parts and "/" not in parts


def _file_names(group: Group, root: str, region: int, config: HsdConfig) -> list[str | None]:
    """The file of each slice, None for discards."""
    folders = {level.name: level.folder for level in config.levels}
    rank = dict.fromkeys(folders, 0)
    names: list[str | None] = []
    for piece in group.slices:
        rank[piece.level] += piece.kept
        stem = slice_stem(root, region, rank[piece.level])
        names.append(f"{folders[piece.level]}/{stem}.{config.format}" if piece.kept else None)
    return names
