"""The last stage of a run: what was planned for a photo is cut, captioned, encoded and written."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from sga_kohya.hsd.captioners.captioning import FAILED, NOTES, Captioned
from sga_kohya.hsd.cut.crop import Crop
from sga_kohya.hsd.cut.decompose import render
from sga_kohya.hsd.masks.slices import slice_mask
from sga_kohya.hsd.masks.sources import Masks
from sga_kohya.hsd.out.files import caption_file, digest, mask_file, strip_file, view_file
from sga_kohya.hsd.out.manifest import Row
from sga_kohya.hsd.out.output import OutputFolder, caption_bytes
from sga_kohya.hsd.out.pictures import picture_files
from sga_kohya.hsd.out.raw_folder import RawFolder
from sga_kohya.hsd.out.strips import strip, tile
from sga_kohya.hsd.photos.images import decode_slice
from sga_kohya.hsd.photos.photo import Photo
from sga_kohya.hsd.review.decisions import Decisions, Place


@dataclass(frozen=True)
class Work:
    """What to save of one photo. rows: one for each crop, kept or not, or one alone; new: they have yet to be made.

    crops: what is to be cut; without them, new rows with files are those whose captions alone are made anew.
    """

    photo: Photo
    rows: list[Row]
    crops: Sequence[Crop] = ()
    new: bool = True


@dataclass(frozen=True)
class Saver:
    """For several threads. raw: where the photos' own copies go, None where only some photos are taken."""

    folder: OutputFolder
    masks: Masks
    decisions: Decisions
    raw: RawFolder | None = None

    def save(self, work: Work) -> tuple[list[Row], bool]:
        """Cuts, captions, encodes and writes what is new of one photo. Returns its rows and whether they are new."""
        if work.crops and work.photo.pixels is not None:
            return self._cut(work.photo, work.photo.pixels, work.rows, work.crops), True
        if work.new and any(row.file for row in work.rows):
            return self.captioned(work.photo, work.rows, self._read_slice, {}), True
        return work.rows, work.new

    def _cut(self, photo: Photo, pixels: np.ndarray, rows: list[Row], crops: Sequence[Crop]) -> list[Row]:
        kept = {row.file: crop for row, crop in zip(rows, crops, strict=True) if row.file}
        if not kept:
            return self.captioned(photo, rows, self._read_slice, {})
        files: dict[str, bytes] = {}
        tiles = {}
        # One after the other: a slice is encoded and looked at while its pixels are at hand, and then gone.
        for file, crop in kept.items():
            picture = render(pixels, crop, photo.kit.upscaler.enlarge)
            files |= picture_files(file, picture, partial(slice_mask, photo.mask, crop), photo.kit.config)
            tiles[file] = tile(picture)
        rows = self.captioned(photo, rows, lambda row: decode_slice(files[str(row.file)]), files)
        if self.raw:
            self.raw.copy(rows[0], pixels, photo.mask)
        shown = self.folder.write_pictures(_shown(photo, rows, tiles))
        return [shown_in(row, shown) if row.file else row for row in rows]

    def captioned(
        self, photo: Photo, rows: Sequence[Row], read: Callable[[Row], np.ndarray], files: Mapping[str, bytes]
    ) -> list[Row]:
        """Rows whose captions are made and written, with the slices and masks that `files` has.

        A caption that the user has edited is not asked for, nor is one that was written in the review.
        """
        places = {place.key: place for place in self.decisions.of(photo.sha256) if place.caption}
        written = {row.file: places[row.decided] for row in rows if row.file and row.decided in places}
        edited = {
            row.file
            for row in rows
            if row.file and self.folder.edited(caption_file(row.file), *_may_replace(written.get(row.file)))
        }
        asked = [row if row.file not in {*edited, *written} else replace(row, file=None) for row in rows]
        made = dict(
            zip(
                (row.file for row in asked if row.file),
                photo.kit.captioning.of(asked, photo.caption, read),
                strict=True,
            )
        )
        said = {caption.note for caption in made.values()}
        notes = [note for note in rows[0].notes if note not in NOTES] + [note for note in NOTES if note in said]
        done = "" if FAILED in said else photo.kit.captions_digest
        made |= {file: Captioned(place.caption) for file, place in written.items() if file not in edited}
        saw = {file: place.saw for file, place in written.items()}
        return [self._written(replace(row, notes=notes, captioned=done), made, files, saw) for row in rows]

    def _written(
        self, row: Row, captions: Mapping[str, Captioned], files: Mapping[str, bytes], saw: Mapping[str, str]
    ) -> Row:
        """captions: by slice; a slice whose caption stays has none. saw: digests of captions that may be replaced."""
        if row.file is None:
            return row
        caption, mask = caption_file(row.file), mask_file(row.file)
        contents = {name: files[name] for name in (row.file, mask) if name in files}
        if row.file in captions:
            contents[caption] = caption_bytes(captions[row.file].text)
        known = self.folder.write_slice(row.file, contents, saw.get(row.file, ""))
        if row.file in files:
            row = replace(row, sha256=known[row.file], bytes=len(files[row.file]), mask_sha256=known.get(mask))
        return replace(row, caption_sha256=known.get(caption) or self.folder.as_written(caption))

    def _read_slice(self, row: Row) -> np.ndarray:
        return decode_slice((self.folder.path / str(row.file)).read_bytes())


def _may_replace(place: Place | None) -> list[str]:
    """The digests of a caption file that are no edit where a caption was written in the review."""
    return [digest(caption_bytes(place.caption)), place.saw] if place else []


def _shown(photo: Photo, rows: Sequence[Row], tiles: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """The report's pictures of a photo, by file: one of each group, one of the photo. tiles: by slice."""
    groups = defaultdict(list)
    for row in rows:
        if row.file:
            groups[str(row.group)].append(tiles[row.file])
    return {view_file(photo.root): photo.view, **{strip_file(group): strip(parts) for group, parts in groups.items()}}


def shown_in(row: Row, shown: Mapping[str, str]) -> Row:
    """shown: digests of the report's pictures."""
    strip, view = strip_file(str(row.group), row.moving), view_file(row.root, row.moving)
    return replace(row, strip_sha256=shown[strip], view_sha256=shown[view])
