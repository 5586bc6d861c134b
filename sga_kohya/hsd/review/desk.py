"""What the review page can ask for, and what becomes of its decisions. No HTTP: questions and answers are JSON."""

import contextlib
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sga_kohya.hsd.cut.geometry import Box, Size
from sga_kohya.hsd.out.files import caption_file, digest
from sga_kohya.hsd.out.view import Json
from sga_kohya.hsd.review.album import FILTERS, Album, Item, Picture, state_of
from sga_kohya.hsd.review.decisions import WHOLE_PHOTO, Place, Writer, key_of
from sga_kohya.hsd.review.obey import cut
from sga_kohya.hsd.review.sources import LargePictures
from sga_kohya.kit.one_page import Refused
from sga_kohya.kit.text import lines_of

Request = Mapping[str, Any]

MOST_AT_ONCE = 60
"""Photos in one reply."""
LONGEST_CAPTION = 4000
NOT_SAVED = "This could not be saved: {}. Make room, and do it again."
CHANGED = "This was changed in another window, or by a run; it is shown anew."


class Desk:
    """An OUT under review. Safe to call from several threads."""

    def __init__(self, out: Path, photos: Path | None) -> None:
        self.out, self.photos, self.lock = out, photos, threading.RLock()
        self.album = Album(out)
        self.decisions = Writer(out)
        self.large = LargePictures(out, photos)
        self._asked: dict[str, Callable[[Request], Json]] = {
            "list": self.chosen,
            "photos": self.views,
            "cut": self.cut,
            "decide": self.decide,
            "undo": self.undo,
            "news": self.news,
        }

    def answer(self, name: str, request: Request) -> Json:
        """Raises Refused. count: rows of decisions there are; run: changes with each run over OUT."""
        if name not in self._asked:
            raise Refused(404, "There is nothing here.")
        with self.lock:
            if state_of(self.out) not in (None, self.album.state):
                self.album = Album(self.out)
            return self._asked[name](request) | {"count": len(self.decisions.rows), "run": str(self.album.state)}

    def chosen(self, request: Request) -> Json:
        """The roots of the photos that a filter and a search take, in the order of the manifest, and what there is."""
        show, words = text(request, "show"), text(request, "find").strip()
        if show and show not in FILTERS and not show.startswith("no:"):
            raise Refused(400, "There is no such filter.")
        album = self.album
        places = {root: self.decisions.of(picture.sha256) for root, picture in album.pictures.items()}
        roots = [
            root
            for root in album.pictures
            if album.shows(root, places[root], show) and (not words or album.says(root, places[root], words))
        ]
        waiting = sum(bool(found) and album.shows(root, found, "waiting") for root, found in places.items())
        return {"roots": roots, "waiting": waiting}

    def views(self, request: Request) -> Json:
        """All that there is to show of some photos, by their roots."""
        roots = request.get("roots")
        if not isinstance(roots, list) or len(roots) > MOST_AT_ONCE:
            raise Refused(400, f"Ask for at most {MOST_AT_ONCE} photos.")
        known = [root for root in roots if isinstance(root, str) and root in self.album.pictures]
        return {"photos": [self._view(root) for root in known]}

    def news(self, request: Request) -> Json:
        """The photos that were decided about since there were `seen` rows."""
        seen = request.get("seen")
        rows = self.decisions.rows[seen if type(seen) is int and seen >= 0 else 0 :]
        return {"roots": [root for photo in {row["photo"] for row in rows} for root in self._roots(photo)]}

    def cut(self, request: Request) -> Json:
        """The crop that a box would give, by the code that will cut it."""
        picture = self._picture(request)
        crop = cut(drawn(request, size_of(picture)), size_of(picture), picture.config)
        if crop is None:
            raise Refused(400, "There is no such level here, or nothing of the box.")
        return {"box": crop.box.as_list(), "out": crop.size, "scale": crop.scale, "why": crop.reason}

    def decide(self, request: Request) -> Json:
        """One decision, on the disk when the reply is sent. id: what an undo names; None where nothing had to change.

        do: keep, reject, restore, place (box), add (level, box), caption (caption), reject photo, restore photo. as:
        the id it is to have; one that is there already was sent twice, and is made once.
        """
        picture = self._picture(request)
        row = self.decisions.row(id_in(request))
        if row is None and (content := self._content(picture, request)):
            row = self._keep(request, picture.sha256, picture.first.source, content)
        return {"id": row and row["id"], "photo": self._view(picture.first.root)}

    def undo(self, request: Request) -> Json:
        """Takes back a row of the file, by its id, else the latest that holds; also an undo, which is then redone."""
        row = self.decisions.row(id_in(request))
        if row is None:
            found = self.decisions.row(request["id"]) if "id" in request else self.decisions.last()
            if found is None:
                raise Refused(409, "There is nothing to undo.")
            row = self._keep(request, found["photo"], found["source"], {"undo": found["id"]})
        return {"id": row["id"], "roots": self._roots(row["photo"])}

    def _content(self, picture: Picture, request: Request) -> Json | None:
        """What a decision's row says; None where it is so already."""
        do = text(request, "do")
        if do == "reject photo" or do == "restore photo":
            return self._whole_photo(picture, rejected=do == "reject photo")
        if do == "add":
            return pinned(picture, drawn(request, size_of(picture)))
        item = self._item(picture, text(request, "key"))
        if do == "caption":
            return about(item) | self._caption(item, text(request, "caption"))
        if do == "reject":
            return about(item) | {"box": None} if item.state != "rejected" else None
        if do == "restore":
            return self._restored(picture, item.key)
        if do == "place":
            return pinned(
                picture, drawn(request, size_of(picture), Place(item.key, item.crop.level, item.anchor, None))
            )
        if do == "keep" and item.state == "discarded":
            return pinned(picture, Place(key_of(item.crop.level, None), item.crop.level, None, item.crop.box))
        if do == "keep":
            return about(item) | {"box": item.crop.box.as_list()} if item.state in ("", "rejected") else None
        raise Refused(400, "There is no such decision.")

    def _caption(self, item: Item, words: str) -> Json:
        written = "\n".join(lines_of(words))
        if not written or len(written) > LONGEST_CAPTION or not is_text(written):
            raise Refused(400, f"A caption has from 1 to {LONGEST_CAPTION} characters that UTF-8 has.")
        saw = ""
        with contextlib.suppress(OSError):
            if item.made and item.made.file:
                saw = digest((self.out / caption_file(item.made.file)).read_bytes())
        return {"caption": written, "saw": saw}

    def _restored(self, picture: Picture, key: str) -> Json | None:
        """Takes back the rejection of a place, and leaves what else was decided about it."""
        rows = self.decisions.rows_of(picture.sha256, key)
        last = next((row for row in reversed(rows) if "box" in row), None)
        return {"undo": last["id"]} if last and last["box"] is None else None

    def _whole_photo(self, picture: Picture, rejected: bool) -> Json | None:
        there = self.decisions.rows_of(picture.sha256, WHOLE_PHOTO)
        if rejected:
            return None if there else {"level": "", "place": WHOLE_PHOTO, "anchor": None, "box": None}
        return {"undo": there[-1]["id"]} if there else None

    def _keep(self, request: Request, photo: str, source: str, content: Json) -> Json:
        try:
            return self.decisions.add(photo, source, id_in(request), **content)
        except OSError as error:
            raise Refused(507, NOT_SAVED.format(error.strerror or error)) from None

    def _picture(self, request: Request) -> Picture:
        root = text(request, "root")
        if root not in self.album.pictures:
            raise Refused(409, CHANGED)
        return self.album.pictures[root]

    def _item(self, picture: Picture, key: str) -> Item:
        items = picture.items(self.decisions.of(picture.sha256), self.out)
        found = next((item for item in items if item.key == key), None)
        if found is None:
            raise Refused(409, CHANGED)
        return found

    def _roots(self, photo: str) -> list[str]:
        return self.album.by_sha256.get(photo, [])

    def _view(self, root: str) -> Json:
        return self.album.view(root, self.decisions.of(self.album.pictures[root].sha256))


def about(item: Item) -> Json:
    """What every row of a place begins with."""
    anchor = item.anchor.as_list() if item.anchor else None
    return {"level": item.crop.level, "place": item.key, "anchor": anchor, "size": item.crop.size}


def pinned(picture: Picture, place: Place) -> Json:
    """The row that pins a place to its box. Raises Refused where no slice can be cut there."""
    crop = cut(place, size_of(picture), picture.config)
    if crop is None or not crop.kept or place.box is None:
        raise Refused(400, (crop and crop.reason) or "There is no such level here, or nothing of the box.")
    anchor = place.anchor.as_list() if place.anchor else None
    whose = {"level": place.level, "place": place.key, "anchor": anchor}
    # The frame and not what was drawn: it is what the person has seen.
    return {**whose, "box": crop.box.as_list(), "size": crop.size}


def drawn(request: Request, photo: Size, place: Place | None = None) -> Place:
    """A place, or a new one of the request's level, with the request's box. size: that of a box that is only moved."""
    box, size = whole_numbers(request, "box", 4), whole_numbers(request, "size", 2)
    if box is None or box[0] >= box[2] or box[1] >= box[3]:
        raise Refused(400, "A box is four whole numbers, the first two below the others.")
    if place is None:
        level = text(request, "level")
        place = Place(key_of(level, None), level, None, None)
    inside = Box(*box).clipped(Box.whole(photo))
    return Place(place.key, place.level, place.anchor, inside, (size[0], size[1]) if size else None)


def whole_numbers(request: Request, name: str, count: int) -> list[int] | None:
    value = request.get(name)
    if value is not None and not (isinstance(value, list) and len(value) == count and all(map(is_whole, value))):
        raise Refused(400, f"{name} is {count} whole numbers.")
    return value


def is_whole(value: object) -> bool:
    return type(value) is int and abs(value) < 1 << 31


def text(request: Request, name: str) -> str:
    value = request.get(name, "")
    if not isinstance(value, str):
        raise Refused(400, f"{name} is a text.")
    return value


def id_in(request: Request) -> str:
    """The id that a row is to have, "" for any."""
    id = text(request, "as")
    if id and not re.fullmatch("[0-9a-f]{12}", id):
        raise Refused(400, "An id is twelve hexadecimal digits.")
    return id


def is_text(words: str) -> bool:
    """Whether UTF-8 has every character, and none of them is a NUL."""
    return "\0" not in words and not any("\ud800" <= letter <= "\udfff" for letter in words)


def size_of(picture: Picture) -> Size:
    """Of the upright photo. Raises Refused for one that nobody could read."""
    size = picture.first.source_size
    if size is None:
        raise Refused(409, "This photo cannot be read.")
    return size[0], size[1]
