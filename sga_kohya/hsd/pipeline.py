"""The streaming run: loader threads, one detecting thread, saver threads, a bounded number of photos in flight.

The calling thread detects, batch by batch; a pool of threads loads ahead of it and saves behind it. Results are taken
in the order of the photos, so that the output does not depend on how the threads happen to be scheduled.
"""

import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from sga_kohya.hsd.cut.decompose import Crop, Region, decompose, render
from sga_kohya.hsd.detect import UNANSWERED, Detection
from sga_kohya.hsd.kits import Kit
from sga_kohya.hsd.out.ledger import digest
from sga_kohya.hsd.out.manifest import (
    UNREADABLE,
    UNREADABLE_CAPTION,
    Row,
    lost_row,
    region_rows,
)
from sga_kohya.hsd.out.output import OutputFolder, caption_bytes
from sga_kohya.hsd.out.strips import strip, tile
from sga_kohya.hsd.photos.captions import CaptionEvidence, UnreadableCaption, find_caption, slice_caption
from sga_kohya.hsd.photos.filters import Comparing, filter_names, make_filters, reason_against
from sga_kohya.hsd.photos.filters.near_duplicates import perceptual_hash
from sga_kohya.hsd.photos.images import UnreadableImage, decode_image, encode_image
from sga_kohya.hsd.photos.photo import Photo
from sga_kohya.hsd.settings.config import HsdConfig

DETECTOR_BATCH = 4
"""Photos per call of the detector, all held in memory at their full size."""

FORMAT = 4
"""Raise it when the same photo and settings give other slices or rows than before: earlier ones are then redone."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Work:
    """What to save of one photo. rows: one for each crop, kept or not, or one alone; new: they have yet to be made."""

    photo: Photo
    rows: list[Row]
    crops: Sequence[Crop] = ()
    captions: Sequence[str] = ()
    new: bool = True


class Pipeline:
    """load -> plan -> save, each for one photo or one batch, and `stream`, which runs them side by side.

    Of near-duplicates the first stays, among the photos that give slices; so they are best taken from large to small.
    """

    def __init__(self, photos: Path, folder: OutputFolder, config: HsdConfig, kits: dict[str, Kit]) -> None:
        """kits: by their names in `config.overrides`, "" for the rest."""
        self.photos, self.folder, self.config, self.kits = photos, folder, config, kits
        self._filters = make_filters(config)
        self._comparing = [judge for judge in self._filters if isinstance(judge, Comparing)]
        self.unopened: list[str] = []
        """Photos that cannot be opened now, of which what earlier runs made stays."""

    def stream(
        self, sources: Iterable[str], roots: Mapping[str, str], pool: ThreadPoolExecutor, ahead: int
    ) -> Iterator[tuple[list[Row], bool]]:
        """roots: names by source. ahead: photos in flight on each side of the detector.

        Yields the rows of one photo after the other, in the order of sources, once its files are there, and whether
        they were made in this run.
        """
        items = ((source, roots[source]) for source in sources)
        loaded = bounded_map(pool, self.load, items, limit=ahead + DETECTOR_BATCH)
        planned = (work for batch in batched(loaded, DETECTOR_BATCH) for work in self.plan(batch))
        for rows, new in bounded_map(pool, self.save, planned, limit=ahead + 1):
            self.folder.done(rows, new)
            yield rows, new

    def load(self, item: tuple[str, str], again: bool = False) -> Photo:
        """item: source and root. What cannot be read becomes the photo's problem. again: also what is finished."""
        source, root = item
        kit = self.kits[self.config.override_of(source)]
        photo, path = Photo(source, root, kit), self.photos / source
        try:
            data = path.read_bytes()
            photo = replace(photo, sha256=digest(data), caption=find_caption(path, self.photos, kit.config.caption))
            inputs = [FORMAT, source, root, photo.sha256, photo.caption.__dict__, kit.digest, filter_names()]
            photo = replace(photo, inputs=digest(json.dumps(inputs).encode()))
            finished = [] if again else self._finished(photo)
            if finished:
                first = finished[0]
                return replace(photo, size=first.source_size, phash=first.phash, notes=first.notes, finished=finished)
            pixels, notes = decode_image(data)
            size, notes = (pixels.shape[1], pixels.shape[0]), (*photo.caption.notes, *notes)
            return replace(photo, pixels=pixels, size=size, notes=notes, phash=perceptual_hash(pixels))
        except UnreadableCaption as error:
            return replace(photo, problem=f"{UNREADABLE_CAPTION}: {error}")
        except OSError as error:
            # Without the path, which the row has, and which must not depend on where PHOTOS lies.
            problem = f"{UNREADABLE}: {error.strerror or error}"
            # Its slices have the name that they were made under, which may be another photo's now.
            before = [row for row in self.folder.made_before(source) if row.root == root]
            return replace(photo, problem=problem, finished=before)
        except UnreadableImage as error:
            return replace(photo, problem=f"{UNREADABLE}: {error}")

    def _finished(self, photo: Photo) -> list[Row]:
        """An unreadable photo never is: a plugin may have been installed. Nor is one that its detector failed at."""
        rows = self.folder.ledger.rows(photo.source, str(photo.inputs))
        if any(UNANSWERED in row.notes for row in rows):
            return []
        return rows if all(row.kind != UNREADABLE and self.folder.holds(row) for row in rows) else []

    def plan(self, batch: Sequence[Photo]) -> list[Work]:
        """Says what to save of each photo of a batch; the only stage that touches detectors.

        As if photo came after photo: where one is like another that has yet to be looked into, that one is, first.
        """
        works: dict[str, Work] = {}
        waiting: list[Photo] = []
        for photo in batch:
            if any(judge.alike(photo, earlier) for judge in self._comparing for earlier in waiting):
                works |= self._detect(waiting)
                waiting = []
            work = self._without_detector(photo)
            if work.rows:
                works[photo.source] = self._settled(work)
            else:
                waiting.append(work.photo)
        works |= self._detect(waiting)
        return [works[photo.source] for photo in batch]

    def _settled(self, work: Work) -> Work:
        """Only a photo that gives slices is one that others are held against."""
        if any(row.file for row in work.rows):
            for judge in self._comparing:
                judge.used(work.photo)
        return work

    def _detect(self, photos: Sequence[Photo]) -> dict[str, Work]:
        works: dict[str, Work] = {}
        for kit in {id(photo.kit): photo.kit for photo in photos}.values():
            ours = [photo for photo in photos if photo.kit is kit]
            views = [(photo.source, photo.pixels) for photo in ours if photo.pixels is not None]
            found = decompose(views, kit.detector, kit.config)
            works |= {
                photo.source: self._with_regions(photo, regions) for photo, regions in zip(ours, found, strict=True)
            }
        for photo in photos:
            self._settled(works[photo.source])
        return works

    def _without_detector(self, photo: Photo) -> Work:
        """What is known of a photo without looking into it: no rows where it has to be looked into."""
        if photo.problem and photo.finished:
            self.unopened.append(photo.source)
            rows = list(photo.finished)
            return Work(replace(photo, phash=rows[0].phash), rows, new=False)
        # What the others say of a finished photo stands in its rows.
        reason = reason_against(photo, self._comparing if photo.finished else self._filters)
        if photo.finished and not reason:
            if photo.finished[0].kind not in {judge.kind for judge in self._comparing}:
                return Work(photo, list(photo.finished), new=False)
            # The photo that it was held against has gone.
            photo = self.load((photo.source, photo.root), again=True)
            reason = reason_against(photo, self._filters)
        if reason:
            return Work(replace(photo, pixels=None), [lost_row(photo.origin, reason, photo.kit.config)])
        return Work(photo, [])

    def _with_regions(self, photo: Photo, regions: list[Region]) -> Work:
        kit = photo.kit
        if photo.source in getattr(kit.detector, "unanswered", ()):
            photo = replace(photo, notes=(*photo.notes, UNANSWERED))
        crops = [crop for region in regions for crop in region.crops]
        captions = crop_captions(photo, regions)
        rows = [
            row
            if row.file is None
            else replace(
                row,
                caption_sha256=digest(caption_bytes(caption)),
                upscaler=kit.upscaler.name if row.upscaled else None,
                super_resolved=row.upscaled and kit.config.upscale_model is not None,
            )
            for row, caption in zip(
                region_rows(regions, photo.origin, kit.config, kit.detector.name), captions, strict=True
            )
        ]
        return Work(photo, rows, crops, captions)

    def save(self, work: Work) -> tuple[list[Row], bool]:
        """Cuts, resizes, encodes and writes the kept crops of one photo. Returns its rows and whether they are new."""
        rows, tiles = [], defaultdict(list)
        kit = work.photo.kit
        if not work.crops or work.photo.pixels is None:
            return work.rows, work.new
        for crop, row, caption in zip(work.crops, work.rows, work.captions, strict=True):
            if row.file:
                pixels = render(work.photo.pixels, crop, kit.upscaler.enlarge)
                row = self.folder.write_slice(row, encode_image(pixels, kit.config.format), caption)
                tiles[str(row.group)].append(tile(pixels))
            rows.append(row)
        strips = {group: strip(pictures) for group, pictures in tiles.items()}
        for group, picture in strips.items():
            self.folder.write_strip(group, picture)
        digests = {group: digest(picture) for group, picture in strips.items()}
        return [replace(row, strip_sha256=digests[str(row.group)]) if row.file else row for row in rows], work.new


def crop_captions(photo: Photo, regions: Sequence[Region]) -> list[str]:
    """A caption for each crop, kept or not, from the photo's own and what was detected anywhere in it."""
    config = photo.kit.config
    prefixes = {level.name: level.caption_prefix for level in config.levels}
    own = [Detection(region.crops[0].box, 1.0, config.coarsest.name, region.crops[0].label) for region in regions]
    seen = [*own, *(detection for region in regions for detection in region.seen)]
    return [
        slice_caption(
            photo.caption.text,
            CaptionEvidence(crop.box, region.crops[0].box, seen),
            prefixes[crop.level],
            config.drop_tags,
        )
        for region in regions
        for crop in region.crops
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
