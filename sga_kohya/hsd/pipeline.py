"""The streaming run: loader threads, one detecting thread, saver threads, a bounded number of photos in flight.

The calling thread detects, batch by batch; a pool of threads loads ahead of it and saves behind it. Results are taken
in the order of the photos, so that the output does not depend on how the threads happen to be scheduled.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from sga_kohya.hsd.cut.decompose import Group, Slice, decompose, render
from sga_kohya.hsd.detect import UNANSWERED, Detection
from sga_kohya.hsd.kits import Section
from sga_kohya.hsd.out.ledger import digest
from sga_kohya.hsd.out.manifest import NEAR_DUPLICATE, UNREADABLE, Origin, Row, group_rows, lost_row
from sga_kohya.hsd.out.output import OutputFolder, caption_bytes
from sga_kohya.hsd.out.strips import strip, tile
from sga_kohya.hsd.photos.captions import CaptionEvidence, find_caption, slice_caption
from sga_kohya.hsd.photos.duplicates import NearDuplicates, perceptual_hash
from sga_kohya.hsd.photos.images import UnreadableImage, decode_image, encode_image
from sga_kohya.hsd.settings.config import HsdConfig

DETECTOR_BATCH = 4
"""Photos per call of the detector, all held in memory at their full size."""

FORMAT = 2
"""Raise it when the same photo and settings give other slices or rows than before: earlier ones are then redone."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Photo:
    """One source as loaded. source: below PHOTOS, '/' separators.

    finished: the rows of an earlier run from the same inputs, whose files are all there; pixels are then None. pixels:
    (H, W, 3) RGB uint8, None also with a problem.
    """

    source: str
    root: str
    section: Section
    caption: str = ""
    sha256: str | None = None
    inputs: str | None = None
    phash: str | None = None
    notes: Sequence[str] = ()
    pixels: np.ndarray | None = None
    problem: str = ""
    finished: Sequence[Row] = ()

    @property
    def origin(self) -> Origin:
        return Origin(
            root=self.root,
            source=self.source,
            source_sha256=self.sha256,
            inputs=self.inputs,
            phash=self.phash,
            notes=self.notes,
        )


@dataclass(frozen=True)
class Work:
    """What to save of one photo. rows: one for each slice, kept or not, or one alone; new: they have yet to be made."""

    photo: Photo
    rows: list[Row]
    slices: Sequence[Slice] = ()
    captions: Sequence[str] = ()
    new: bool = True


class Pipeline:
    """load -> plan -> save, each for one photo or one batch, and `stream`, which runs them side by side."""

    def __init__(self, photos: Path, folder: OutputFolder, config: HsdConfig, sections: dict[str, Section]) -> None:
        """sections: by their names in `config.overrides`, "" for the rest."""
        self.photos, self.folder, self.config, self.sections = photos, folder, config, sections
        self._duplicates = NearDuplicates(config.near_duplicates)

    def stream(self, roots: dict[str, str], pool: ThreadPoolExecutor, ahead: int) -> Iterator[tuple[list[Row], bool]]:
        """roots: names by source. ahead: photos in flight on each side of the detector.

        Yields the rows of one photo after the other, by source, once its files are there, and whether they were made
        in this run.
        """
        loaded = bounded_map(pool, self.load, sorted(roots.items()), limit=ahead + DETECTOR_BATCH)
        planned = (work for batch in batched(loaded, DETECTOR_BATCH) for work in self.plan(batch))
        for rows, new in bounded_map(pool, self.save, planned, limit=ahead + 1):
            self.folder.done(rows, new)
            yield rows, new

    def load(self, item: tuple[str, str], again: bool = False) -> Photo:
        """item: source and root. What cannot be read becomes the photo's problem. again: also what is finished."""
        source, root = item
        section = self.sections[self.config.section(source)]
        photo, path = Photo(source, root, section), self.photos / source
        try:
            data = path.read_bytes()
            photo = replace(photo, sha256=digest(data), caption=find_caption(path, self.photos, section.config.caption))
            inputs = json.dumps([FORMAT, source, root, photo.sha256, photo.caption, section.digest])
            photo = replace(photo, inputs=digest(inputs.encode()))
            finished = [] if again else self._finished(photo)
            if finished:
                return replace(photo, phash=finished[0].phash, notes=finished[0].notes, finished=finished)
            pixels, notes = decode_image(data)
            return replace(photo, pixels=pixels, notes=notes, phash=perceptual_hash(pixels))
        except OSError as error:
            # Without the path, which the row has, and which must not depend on where PHOTOS lies.
            return replace(photo, problem=f"{UNREADABLE}: {error.strerror or error}")
        except UnreadableImage as error:
            return replace(photo, problem=f"{UNREADABLE}: {error}")

    def _finished(self, photo: Photo) -> list[Row]:
        """An unreadable photo never is: a plugin may have been installed. Nor is one that its detector failed at."""
        rows = self.folder.ledger.rows(photo.source, str(photo.inputs))
        if any(UNANSWERED in row.notes for row in rows):
            return []
        return rows if all(row.kind != UNREADABLE and self.folder.holds(row) for row in rows) else []

    def plan(self, batch: Sequence[Photo]) -> list[Work]:
        """Says what to save of each photo of a batch; the only stage that touches detectors."""
        works = [self._without_detector(photo) for photo in batch]
        photos = [work.photo for work in works if not work.rows]
        groups: dict[str, list[Group]] = {}
        for section in {id(photo.section): photo.section for photo in photos}.values():
            ours = [(photo.source, photo.pixels) for photo in photos if photo.section is section]
            found = decompose(ours, section.detector, section.config)
            groups |= zip((source for source, _ in ours), found, strict=True)
        works = [work if work.rows else self._with_groups(work.photo, groups[work.photo.source]) for work in works]
        for work in works:
            if work.new:
                self.folder.ledger.announce(work.rows)
        return works

    def _without_detector(self, photo: Photo) -> Work:
        """What is known of a photo without looking into it: no rows where it has to be looked into."""
        config = photo.section.config
        if not photo.problem:
            first = self._duplicates.first(photo.source, str(photo.phash))
            if first is not None:
                reason = f"{NEAR_DUPLICATE}: of {first[0]}, {first[1]} of 64 bits differ"
                return Work(replace(photo, pixels=None), [lost_row(photo.origin, reason, config)])
            if photo.finished and photo.finished[0].kind != NEAR_DUPLICATE:
                return Work(photo, list(photo.finished), new=False)
            if photo.pixels is None:  # it was a near-duplicate of a photo that has gone
                photo = self.load((photo.source, photo.root), again=True)
        if photo.problem:
            return Work(photo, [lost_row(photo.origin, photo.problem, config)])
        return Work(photo, [])

    def _with_groups(self, photo: Photo, groups: list[Group]) -> Work:
        section = photo.section
        if photo.source in getattr(section.detector, "unanswered", ()):
            photo = replace(photo, notes=(*photo.notes, UNANSWERED))
        slices = [piece for group in groups for piece in group.slices]
        captions = slice_captions(photo, groups)
        rows = [
            row
            if row.file is None
            else replace(
                row,
                caption_sha256=digest(caption_bytes(caption)),
                upscaler=section.upscaler.name if row.upscaled else None,
                super_resolved=row.upscaled and section.config.upscale_model is not None,
            )
            for row, caption in zip(
                group_rows(groups, photo.origin, section.config, section.detector.name), captions, strict=True
            )
        ]
        return Work(photo, rows, slices, captions)

    def save(self, work: Work) -> tuple[list[Row], bool]:
        """Cuts, resizes, encodes and writes the kept slices of one photo. Returns its rows and whether they are new."""
        rows, tiles = [], {}
        section = work.photo.section
        if not work.slices or work.photo.pixels is None:
            return work.rows, work.new
        for piece, row, caption in zip(work.slices, work.rows, work.captions, strict=True):
            if row.file:
                pixels = render(work.photo.pixels, piece, section.upscaler.enlarge)
                row = self.folder.write_slice(row, encode_image(pixels, section.config.format), caption)
                tiles.setdefault(str(row.group), []).append(tile(pixels))
            rows.append(row)
        for group, pictures in tiles.items():
            self.folder.write_strip(group, strip(pictures))
        return rows, work.new


def slice_captions(photo: Photo, groups: Sequence[Group]) -> list[str]:
    """A caption for each slice, kept or not, from the photo's own and what was detected anywhere in it."""
    config = photo.section.config
    prefixes = {level.name: level.caption_prefix for level in config.levels}
    regions = [Detection(group.slices[0].box, 1.0, config.coarsest.name, group.slices[0].label) for group in groups]
    seen = [*regions, *(detection for group in groups for detection in group.seen)]
    return [
        slice_caption(
            photo.caption,
            CaptionEvidence(piece.box, group.slices[0].box, seen),
            prefixes[piece.level],
            config.drop_tags,
        )
        for group in groups
        for piece in group.slices
    ]


def bounded_map(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], limit: int) -> Iterator[R]:
    """`map` on the pool: results in order, at most `limit` items begun and not yet taken."""
    pending: deque[Future[R]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) >= limit:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def batched(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """Tuples of `size` items, the last one shorter (itertools.batched of Python 3.12)."""
    iterator = iter(items)
    while batch := tuple(islice(iterator, size)):
        yield batch
