"""What the review shows of an OUT: its photos as the next run would cut them, and filters over them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sga_kohya.errors import SgaError
from sga_kohya.hsd.clips.levels import of_clips
from sga_kohya.hsd.cut.decompose import Crop, Region
from sga_kohya.hsd.cut.geometry import Box
from sga_kohya.hsd.out.files import caption_file, strip_file, view_file
from sga_kohya.hsd.out.lines import read_rows
from sga_kohya.hsd.out.manifest import MANIFEST, NEAR_DUPLICATE, REVIEW, Row
from sga_kohya.hsd.out.view import Json, photo_view, read_caption
from sga_kohya.hsd.review.decisions import WHOLE_PHOTO, Place, key_of
from sga_kohya.hsd.review.obey import MOVED, REJECTED, obey
from sga_kohya.hsd.settings.config import HsdConfig
from sga_kohya.hsd.settings.config_file import CONFIG_TOML, load_config
from sga_kohya.kit.text import lines_of, safe

DEFAULTS = HsdConfig()
NOTHING_LOOKS = {
    **{"detector": DEFAULTS.detector, "detector_options": {}, "captioner": DEFAULTS.captioner, "captioner_options": {}},
    **{"masks": DEFAULTS.masks, "upscale_model": "", "device": ""},
}
"""Over the settings of OUT: nothing is detected or enlarged here, so no model and no code for it has to be there."""


@dataclass(frozen=True)
class Item:
    """A crop as it would be, and what it has of its own. made: the slice that lies in OUT. state: "", kept, moved,
    added, rejected or discarded. waiting: the next run will change something."""

    key: str
    crop: Crop
    anchor: Box | None
    made: Row | None = None
    state: str = ""
    caption: str = ""
    waiting: bool = False


@dataclass(frozen=True)
class Picture:
    """One photo of the manifest. rows: as the last run left them. config: what it is cut with."""

    rows: Sequence[Row]
    config: HsdConfig

    @property
    def first(self) -> Row:
        return self.rows[0]

    @property
    def sha256(self) -> str:
        return self.first.source_sha256 or ""

    def items(self, places: Sequence[Place], out: Path) -> list[Item]:
        """What becomes of the photo by the decisions about it."""
        if self.first.source_size is None:
            return []
        width, height = self.first.source_size
        regions = obey(detected(self.rows, self.config), places, (width, height), self.config)
        made = {(row.granularity, tuple(row.box)): row for row in self.rows if row.file and row.box}
        by_key = {place.key: place for place in places}
        return [
            _item(crop, by_key.get(crop.decided), made.get((crop.level, tuple(crop.box.as_list()))), out)
            for region in regions
            for crop in region.crops
        ]


def _item(crop: Crop, place: Place | None, made: Row | None, out: Path) -> Item:
    caption = place.caption if place else ""
    if not crop.kept:
        state = "rejected" if (crop.reason or "").startswith(REJECTED) else "discarded"
        if place is None or place.key == WHOLE_PHOTO:
            return Item(key_of(crop.level, crop.box), crop, crop.box, made, state, waiting=made is not None)
        return Item(place.key, crop, place.anchor, made, state, caption, made is not None)
    if place is None:
        # What was cut for a decision that has been undone has yet to become what it was.
        return Item(key_of(crop.level, crop.box), crop, crop.box, made, waiting=made is None or bool(made.decided))
    state = "added" if place.anchor is None else "kept" if place.box == place.anchor else "moved"
    waiting = made is None
    if made and made.file and caption:
        waiting = read_caption(out / caption_file(made.file)) != "\n".join(map(safe, lines_of(caption)))
    return Item(place.key, crop, place.anchor, made, state, caption, waiting)


def detected(rows: Sequence[Row], config: HsdConfig) -> list[Region]:
    """What the detector had found, before decisions: crops that a person drew are left out, others are as they were."""
    order = [level.name for level in config.levels]
    regions = []
    for _, members in groupby((row for row in rows if row.group and row.box), key=lambda row: row.group):
        crops = [crop for row in members if (crop := _crop(row)) and not crop.drawn and crop.level in order]
        crops.sort(key=lambda crop: order.index(crop.level))
        regions += [Region(tuple(crops))] if crops else []
    return regions


def _crop(row: Row) -> Crop:
    box, size = Box(*(row.box or ())), (row.size[0], row.size[1]) if row.size else None
    drawn = bool(row.decided) and row.detector == REVIEW
    reason = None if row.decided and size else row.reason
    return Crop(row.granularity, box, row.score, row.scale, size, row.label, row.detector or "", reason, drawn=drawn)


class Album:
    """The photos of OUT by root, as the last run left them. Raises SgaError where there was none."""

    def __init__(self, out: Path) -> None:
        self.out, self.state = out, state_of(out)
        if self.state is None:
            raise SgaError(f"{out} holds no {MANIFEST}: give the OUT of a finished run of sga_kohya.hsd")
        self.config = load_config("", out / CONFIG_TOML, NOTHING_LOOKS)
        rows = groupby(read_rows(out), key=lambda row: row.source)
        pictures = [self._picture(tuple(members)) for _, members in rows]
        self.pictures = {picture.first.root: picture for picture in pictures}
        self.levels = [level.name for level in self.config.levels]
        clips = [level.name for level in of_clips(self.config).levels]
        self.levels += [name for name in clips if name not in self.levels and any(p.first.moving for p in pictures)]
        self.levels += sorted({row.granularity for p in pictures for row in p.rows} - set(self.levels))
        self.by_sha256: dict[str, list[str]] = {}
        for root, picture in self.pictures.items():
            self.by_sha256.setdefault(picture.sha256, []).append(root)
        self.files = {strip_file(row.group, row.moving) for p in pictures for row in p.rows if row.file and row.group}
        self.files |= {view_file(p.first.root, p.first.moving) for p in pictures if any(row.file for row in p.rows)}
        self._captions: dict[str, str] = {}

    def _picture(self, rows: Sequence[Row]) -> Picture:
        config = self.config.of(self.config.override_of(rows[0].source))
        return Picture(rows, of_clips(config) if rows[0].moving else config)

    def view(self, root: str, places: Sequence[Place]) -> Json:
        """All that the page shows of a photo."""
        picture = self.pictures[root]
        found = photo_view(picture.rows, self.levels, self.out, [level.name for level in picture.config.levels])
        tiles = {piece["file"]: piece for piece in found["slices"]}
        found["picture"] = self._address(found["picture"], picture) if "picture" in found else None
        found["large"] = f"large/{quote(root)}?v={picture.sha256[:12]}"
        items = picture.items(places, self.out)
        # A box that has yet to be cut will have the words of the slice that it replaces, or much the same.
        words = {piece["level"]: piece["caption"] for piece in reversed(found["slices"])}
        found["slices"] = [self._slice(item, tiles, words) for item in items if item.state != "discarded"]
        found["discards"] = [self._discard(item) for item in items if item.state == "discarded"]
        found["rejected"] = any(place.key == WHOLE_PHOTO for place in places)
        return found

    def _slice(self, item: Item, tiles: dict[str, Json], words: dict[int, str]) -> Json:
        crop, made = item.crop, item.made
        piece = dict(tiles[made.file]) if made and made.file else {}
        if piece:
            piece["tile"] = piece["tile"] | {"picture": self._address(piece["tile"]["picture"], made)}
        level = self.levels.index(crop.level)
        piece |= {"level": level, "box": crop.box.as_list(), "out": crop.size}
        piece |= {"scale": crop.scale and round(crop.scale, 4), "key": item.key, "state": item.state}
        likely = words.get(level, next(iter(words.values()), ""))
        piece |= {"waiting": item.waiting, "caption": item.caption or piece.get("caption", likely)}
        piece |= {"written": True} if item.caption else {}
        return piece | ({"label": safe(crop.label)} if crop.label else {})

    def _discard(self, item: Item) -> Json:
        kind, _, details = (item.crop.reason or "").partition(":")
        level = self.levels.index(item.crop.level)
        found: Json = {"level": level, "box": item.crop.box.as_list(), "kind": kind, "why": safe(details.strip())}
        found |= {"label": safe(item.crop.label)} if item.crop.label else {}
        # What a person has moved or rejected is had back by an undo, not as a box of its own.
        return found | ({"key": item.key} if not item.crop.decided and kind != MOVED else {})

    @staticmethod
    def _address(file: str, of: Any) -> str:
        """Of a picture of the report. It changes with the picture, so that a browser may keep what it has."""
        row = of if isinstance(of, Row) else next(row for row in of.rows if row.file)
        known = row.view_sha256 if file == view_file(row.root, row.moving) else row.strip_sha256
        return f"{quote(file)}?v={(known or '')[:12]}"

    def shows(self, root: str, places: Sequence[Place], show: str) -> bool:
        """Whether a filter takes a photo. show: "" for all, or one of FILTERS, or no:LEVEL."""
        picture = self.pictures[root]
        if show == "near-duplicates":
            return any(row.kind == NEAR_DUPLICATE for row in picture.rows)
        if show == "decided":
            return bool(places)
        items = picture.items(places, self.out)
        kept = [item for item in items if item.crop.kept]
        if show.startswith("no:"):
            return all(item.crop.level != show.removeprefix("no:") for item in kept)
        if show == "uncaptioned":
            return bool(picture.first.guessed_caption) and any(not item.caption for item in kept)
        checks = {
            "rejected": any(item.state == "rejected" for item in items),
            "enlarged": any((item.crop.scale or 0) > 1 for item in kept),
            "left out": not kept,
            "waiting": any(item.waiting for item in items),
        }
        return checks.get(show, True)

    def says(self, root: str, places: Sequence[Place], words: str) -> bool:
        """Whether the words stand in a photo's name, a label or a caption."""
        rows = self.pictures[root].rows
        texts = [rows[0].source, *(row.label for row in rows), *(place.caption for place in places)]
        texts += [self._caption(row.file) for row in rows if row.file]
        return any(words.casefold() in text.casefold() for text in texts)

    def _caption(self, file: str) -> str:
        if file not in self._captions:
            self._captions[file] = read_caption(self.out / caption_file(file))
        return self._captions[file]


FILTERS = ("rejected", "enlarged", "uncaptioned", "near-duplicates", "left out", "decided", "waiting")


def state_of(out: Path) -> tuple[int, int] | None:
    """Changes with each run over OUT; None before the first has finished."""
    try:
        stat = (out / MANIFEST).stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size
