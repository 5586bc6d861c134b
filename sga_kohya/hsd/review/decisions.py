"""sga_decisions.jsonl: what a person has decided about slices. Every later run obeys it, see `obey`.

A decision is about a *place*: a photo, by the SHA-256 of its file, a level, and the box of the slice that stood there,
its `anchor`; or a box that the person has added, which has no anchor. A place is rejected, or pinned to a box. Whoever
moves a box, keeps a slice or writes its caption pins it: from then on that crop is what the person saw, whatever a
detector or a preset says later, in the nearest size that the level then has.

The file is append-only. A row changes a place's box or its caption, and says nothing of the other, so that what two
pages do at once adds up; or it undoes an earlier row, also an undo, and then that one counts as never written.
"""

import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sga_kohya.hsd.cut.geometry import Box, Size
from sga_kohya.kit.journal import Journal, read_rows

DECISIONS = "sga_decisions.jsonl"
WHOLE_PHOTO = "photo"
"""The place that is all of a photo, of no level: it can only be rejected."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """box: where it is pinned, None where it is rejected. size: that the person saw there, None for any.

    caption: "" for what the run gives it. saw: digest of the caption file that this caption is written over.
    """

    key: str
    level: str
    anchor: Box | None
    box: Box | None
    size: Size | None = None
    caption: str = ""
    saw: str = ""

    def after(self, row: Mapping[str, Any]) -> "Place":
        """With what a row of the file changes."""
        if "box" in row:
            box, size = row["box"] and Box(*row["box"]), row.get("size") and tuple(row["size"])
            return replace(self, box=box, size=size or self.size)
        return replace(self, caption=row["caption"], saw=row.get("saw", ""))

    @classmethod
    def before(cls, row: Mapping[str, Any]) -> "Place":
        """As it is before its first row: where the slice stood."""
        anchor = Box(*row["anchor"]) if row["anchor"] else None
        return cls(row["place"], row["level"], anchor, anchor, row.get("size") and tuple(row["size"]))


def key_of(level: str, anchor: Box | None) -> str:
    """The name of a place. Of an added box it is a new one each time."""
    return f"{level} {','.join(map(str, anchor.as_list()))}" if anchor else f"{level} +{secrets.token_hex(6)}"


class Decisions:
    """The file as it is read, by photo. seen: photos, by digest, that this run has met; the run fills it in."""

    def __init__(self, out: Path) -> None:
        """An OUT without the file has no decisions."""
        self.path = out / DECISIONS
        rows, torn = read_rows(self.path)
        self.rows = [row for row in rows if is_decision(row)]
        self.unread = torn + len(rows) - len(self.rows)
        """Lines that are no decision, such as one that a kill cut short."""
        self.seen: set[str] = set()
        self._by_photo: dict[str, list[Row]] = defaultdict(list)
        for row in self.rows:
            self._by_photo[row["photo"]].append(row)

    @property
    def photos(self) -> list[str]:
        return [photo for photo in self._by_photo if self.of(photo)]

    @property
    def sources(self) -> set[str]:
        """Where the photos lay, below PHOTOS, when they were decided about."""
        return {row["source"] for photo in self.photos for row in self._by_photo[photo]}

    def of(self, photo: str | None) -> list[Place]:
        """What holds now for a photo, by the digest of its file; the oldest place first."""
        return fold(self._by_photo.get(photo or "", ()))

    def inputs(self, photo: str | None) -> list[str]:
        """What the photo's slices depend on: another text whenever they have to be made again, [] for nothing."""
        return [repr(place) for place in self.of(photo)]

    def pins(self, photo: str | None) -> bool:
        """Whether a person wants a slice of this photo."""
        places = self.of(photo)
        return any(place.box for place in places) and all(place.key != WHOLE_PHOTO for place in places)

    def obeyed(self) -> list[Place]:
        """What held for the photos that this run has met."""
        return [place for photo in self.photos if photo in self.seen for place in self.of(photo)]

    @property
    def absent(self) -> list[str]:
        """Photos, by where they lay, that were decided about and that this run has not met; in order."""
        return sorted(self._by_photo[photo][-1]["source"] for photo in self.photos if photo not in self.seen)


class Writer(Decisions):
    """The same, and adds to the file. Safe for several threads; not for two processes."""

    def __init__(self, out: Path) -> None:
        super().__init__(out)
        self.lock, self._journal = threading.RLock(), Journal(self.path)

    def add(self, photo: str, source: str, id: str = "", **content: Any) -> Row:
        """The row is on the disk when this returns. Raises OSError when it could not be kept."""
        row = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "id": id or secrets.token_hex(6)}
        row |= {"photo": photo, "source": source, **content}
        with self.lock:
            self._journal.append(row)
            self.rows.append(row)
            self._by_photo[photo].append(row)
        return row

    def row(self, id: object) -> Row | None:
        return next((row for row in self.rows if row["id"] == id), None)

    def last(self) -> Row | None:
        """The latest row that an undo has not taken back, and that is none itself."""
        undone = _undone(self.rows)
        return next((row for row in reversed(self.rows) if "undo" not in row and row["id"] not in undone), None)

    def rows_of(self, photo: str, place: str) -> list[Row]:
        """The rows of a place that hold, the oldest first."""
        rows = self._by_photo.get(photo, [])
        undone = _undone(rows)
        return [row for row in rows if row.get("place") == place and row["id"] not in undone]

    def close(self) -> None:
        self._journal.close()


def fold(rows: Sequence[Mapping[str, Any]]) -> list[Place]:
    """What the rows of one photo come to. An added box that was rejected, or whose first row is undone, is gone."""
    places: dict[str, Place] = {}
    undone = _undone(rows)
    for row in rows:
        if "undo" not in row and row["id"] not in undone:
            key = row["place"]
            places[key] = places.get(key, Place.before(row)).after(row)
    return [place for place in places.values() if place.anchor or place.box or place.key == WHOLE_PHOTO]


def _undone(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Ids of rows that are taken back. From the last to the first, as an undo may itself be undone by a later one."""
    undone: set[str] = set()
    for row in reversed(rows):
        if "undo" in row and row["id"] not in undone:
            undone.add(row["undo"])
    return undone


def is_decision(row: Mapping[str, Any]) -> bool:
    """Whether a row that was read can be obeyed: every field there and of its kind."""
    if not _are_text(row.get(name) for name in ("id", "photo", "source")):
        return False
    if "undo" in row:
        return isinstance(row["undo"], str)
    if not _are_text(row.get(name) for name in ("place", "level")) or not _is_box(row.get("anchor")):
        return False
    size = row.get("size")
    if size is not None and not (_is_whole(size, 2) and min(size) > 0):
        return False
    if "box" in row:
        return _is_box(row["box"])
    return _are_text([row.get("caption"), row.get("saw", "")])


def _are_text(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) for value in values)


def _is_box(value: object) -> bool:
    """None is one, too: that of an added box before it was there, and of a rejected one."""
    return value is None or (_is_whole(value, 4) and value[0] < value[2] and value[1] < value[3])  # type: ignore[index]


def _is_whole(value: object, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(type(number) is int for number in value)
