"""A photo with its slices and discards in JSON, as report and review show it; view.js draws it for both."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from sga_kohya.hsd.out.files import caption_file, strip_file, view_file
from sga_kohya.hsd.out.manifest import ClipRow, Row
from sga_kohya.hsd.out.strips import GAP, TILE_HEIGHT, tile_width
from sga_kohya.kit.text import UnreadableText, lines_of, read_text, safe

Json = dict[str, Any]


def photo_view(rows: Sequence[Row], levels: Sequence[str], out: Path, own: Collection[str] = ()) -> Json:
    """rows: of one photo or clip. levels: all names, coarse to fine. own: those it may have, () for all. out: where
    captions are read from, as they are now."""
    first = rows[0]
    tiles = tiles_of(rows)
    found: Json = {"root": first.root, "source": safe(first.source), "size": first.source_size}
    if own and set(levels) - set(own):
        found["shows"] = [place for place, level in enumerate(levels) if level in own]
    kept = [row for row in rows if row.file]
    if kept:
        found["picture"] = view_file(first.root, first.moving)
    if first.group is None:
        found["lost"] = safe(first.reason or "")
    if kept and first.guessed_caption:
        found["guessed"] = True
    if first.notes:
        found["notes"] = [safe(note) for note in first.notes]
    found["slices"] = [slice_view(row, levels, tiles[row.file], out) for row in kept if row.file]
    found["discards"] = [discard_view(row, levels) for row in rows if not row.file and row.group]
    return found


def slice_view(row: Row, levels: Sequence[str], tile: Json, out: Path) -> Json:
    """One slice. score, label, enlarger: only where there is one."""
    assert row.file is not None
    found: Json = {"level": levels.index(row.granularity), "box": row.box, "out": row.size, "scale": row.scale}
    found |= {"file": row.file, "tile": tile, "caption": read_caption(out / caption_file(row.file))}
    if row.score is not None and row.detector:
        found |= {"score": round(row.score, 2), "by": row.detector}
    if isinstance(row, ClipRow):
        found |= {"frames": row.frames, "fps": row.fps, "start": row.start}
    if row.label:
        found["label"] = safe(row.label)
    if row.upscaler:
        found["enlarger"] = row.upscaler
    return found


def discard_view(row: Row, levels: Sequence[str]) -> Json:
    kind, _, details = (row.reason or "").partition(":")
    found: Json = {"level": levels.index(row.granularity), "box": row.box, "kind": kind, "why": safe(details.strip())}
    return found | ({"label": safe(row.label)} if row.label else {})


def tiles_of(rows: Iterable[Row]) -> dict[str, Json]:
    """Where each slice is in its group's picture: {file: {picture, whole, box}}, pixels as strips.py puts them."""
    found: dict[str, Json] = {}
    ends: dict[str | None, int] = {}
    for row in rows:
        if row.file and row.size:
            start, width = ends.get(row.group, 0), tile_width(*row.size)
            ends[row.group] = start + width + GAP
            found[row.file] = {
                "picture": strip_file(str(row.group), row.moving),
                "box": [start, 0, start + width, TILE_HEIGHT],
            }
            found[row.file]["group"] = row.group
    for tile in found.values():
        tile["whole"] = [ends[tile.pop("group")] - GAP, TILE_HEIGHT]
    return found


def read_caption(file: Path) -> str:
    """As it lies there, which may have been edited."""
    try:
        return "\n".join(map(safe, lines_of(read_text(file))))
    except UnreadableText as error:
        return f"({error.reason})"
    except OSError as error:
        return f"({error.strerror})"
