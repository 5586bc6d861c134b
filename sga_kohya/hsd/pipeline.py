"""The streaming run: loader threads, one detecting thread, saver threads; photos in flight bounded in number and bytes.

The calling thread detects, batch by batch; a pool of threads loads ahead of it and saves behind it. Results are taken
in the order of the photos, so that the output does not depend on how the threads happen to be scheduled.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from sga_kohya.hsd.cut.decompose import Region, decompose
from sga_kohya.hsd.detect import UNANSWERED
from sga_kohya.hsd.finished import as_read, finished_rows, to_caption, unopened
from sga_kohya.hsd.kits import Kit
from sga_kohya.hsd.masks.slices import Drawing, without_masked_out
from sga_kohya.hsd.masks.sources import DETECTOR, NOT_DRAWN, Masks, UnreadableMask
from sga_kohya.hsd.memory import Memory
from sga_kohya.hsd.out.files import digest
from sga_kohya.hsd.out.manifest import UNREADABLE, UNREADABLE_CAPTION, UNREADABLE_MASK, Row, lost_row, region_rows
from sga_kohya.hsd.out.output import OutputFolder
from sga_kohya.hsd.out.raw_folder import RawFolder
from sga_kohya.hsd.out.strips import view
from sga_kohya.hsd.photos.captions import Caption, UnreadableCaption, find_caption
from sga_kohya.hsd.photos.filters import Comparing, Filter, filter_names, make_filters, reason_against
from sga_kohya.hsd.photos.filters.near_duplicates import perceptual_hash
from sga_kohya.hsd.photos.images import UnreadableImage, decode_image
from sga_kohya.hsd.photos.photo import Photo
from sga_kohya.hsd.photos.scaling import halved
from sga_kohya.hsd.review.decisions import Decisions
from sga_kohya.hsd.review.obey import REJECTED, obey
from sga_kohya.hsd.saving import Saver, Work
from sga_kohya.hsd.settings.config import HsdConfig

DETECTOR_BATCH = 4
"""Photos per call of the detector, at most, all held in memory at their full size."""

FORMAT = 6
"""Raise it when the same photo and settings give other slices or rows than before: earlier ones are then redone."""

T = TypeVar("T")
R = TypeVar("R")


class Pipeline:
    """load -> plan -> save (`saving`), each for one photo or one batch, and `stream`, which runs them side by side.

    Of near-duplicates the first stays, among the photos that give slices; so they are best taken from large to small.
    """

    def __init__(
        self,
        photos: Path,
        folder: OutputFolder,
        config: HsdConfig,
        kits: dict[str, Kit],
        masks: Masks,
        decisions: Decisions,
        memory: Memory,
        raw: RawFolder | None = None,
        alone: bool = True,
    ) -> None:
        """kits: by their names in `config.overrides`, "" for the rest. decisions: of the review. raw: as in Saver.

        alone: not one of several processes, each of which sees only a share of the photos.
        """
        self.photos, self.folder, self.config, self.kits, self.masks = photos, folder, config, kits, masks
        self.decisions, self.memory, self.raw, self.alone = decisions, memory, raw, alone
        self._saver = Saver(folder, masks, decisions, raw)
        self._filters = make_filters(config)
        self._comparing = [judge for judge in self._filters if isinstance(judge, Comparing)]
        self.unopened: list[str] = []
        """Photos that cannot be opened now, of which what earlier runs made stays."""

    def stream(
        self,
        sources: Iterable[tuple[str, int]],
        roots: Mapping[str, str],
        pool: ThreadPoolExecutor,
        ahead: int,
    ) -> Iterator[tuple[list[Row], bool]]:
        """sources: each with the bytes that decoding it takes. roots: names by source.

        ahead: photos in flight on each side of the detector, fewer where memory has no room for so many.

        Yields the rows of one photo after the other, in the order of sources, once its files are there, and whether
        they were made in this run.
        """
        items = ((source, roots[source], size) for source, size in sources)
        planned = self._planned(self._batches(items, pool, limit=ahead + DETECTOR_BATCH))
        for rows, new in bounded_map(pool, self._save_counted, planned, limit=ahead + 1):
            self.folder.done(rows, new)
            yield rows, new

    def _batches(
        self, items: Iterable[tuple[str, str, int]], pool: ThreadPoolExecutor, limit: int
    ) -> Iterator[list[Photo]]:
        """Loaded photos in order, begun as long as there is room. items: source, root, bytes. limit: begun, not taken.

        Where there is none, what is loaded goes on, in a smaller batch if need be, for only what is saved makes room.
        """
        pending: deque[Future[Photo]] = deque()
        for source, root, size in items:
            self.memory.waited += not self.memory.fits(size)
            while pending and (len(pending) >= limit or not self.memory.fits(size)):
                yield _first(pending)
            self.memory.take(source, size)
            pending.append(pool.submit(self._load_counted, (source, root)))
        while pending:
            yield _first(pending)

    def _load_counted(self, item: tuple[str, str]) -> Photo:
        photo = self.load(item)
        self.memory.hold(photo.source, photo.memory)
        return photo

    def _planned(self, batches: Iterable[list[Photo]]) -> Iterator[list[Work]]:
        """Each in a list of its own: who takes it out is the only one to hold its pixels, and lets go of them."""
        for batch in batches:
            works = deque(self.plan(batch))
            batch.clear()
            while works:
                # Filters may have let go of pixels, detectors have drawn a mask.
                self.memory.hold(works[0].photo.source, works[0].photo.memory)
                yield [works.popleft()]

    def _save_counted(self, taken: list[Work]) -> tuple[list[Row], bool]:
        source = taken[0].photo.source
        try:
            return self._saver.save(taken.pop())
        finally:
            self.memory.hold(source, 0)

    def load(self, item: tuple[str, str], again: bool = False) -> Photo:
        """item: source and root. What cannot be read becomes the photo's problem. again: also what is finished."""
        source, root = item
        kit = self.kits[self.config.override_of(source)]
        photo, path = Photo(source, root, kit), self.photos / source
        if not again and (taken := self.taken(photo)):
            return taken
        try:
            data = path.read_bytes()
            photo = replace(photo, sha256=digest(data), caption=find_caption(path, self.photos, kit.config.caption))
            inputs = [FORMAT, source, root, photo.sha256, photo.caption.__dict__, kit.digest, filter_names()]
            inputs += [self.masks.state(source), *self.decisions.inputs(photo.sha256)]
            self.decisions.seen.add(str(photo.sha256))
            photo = replace(photo, inputs=digest(json.dumps(inputs).encode()))
            finished = [] if again else self._finished(photo)
            if finished:
                first = finished[0]
                return replace(photo, size=first.source_size, phash=first.phash, notes=first.notes, finished=finished)
            pixels, notes = decode_image(data)
            size = pixels.shape[1], pixels.shape[0]
            mask, said = self.masks.of(source, data, size)
            photo = replace(photo, pixels=pixels, mask=mask, size=size, notes=(*photo.caption.notes, *notes, *said))
            half = halved(pixels) if min(size) > 1 else None
            return replace(photo, phash=perceptual_hash(pixels, half), view=view(pixels, half=half))
        except UnreadableCaption as error:
            return replace(photo, problem=f"{UNREADABLE_CAPTION}: {error}")
        except UnreadableMask as error:
            return replace(photo, problem=f"{UNREADABLE_MASK}: {error}")
        except OSError as error:
            return unopened(self.folder, photo, error)
        except UnreadableImage as error:
            return replace(photo, problem=f"{UNREADABLE}: {error}")

    def taken(self, photo: Photo) -> Photo | None:
        """What another process of this run has finished, of which nothing is read again; None for all others."""
        rows = self.folder.ledger.rows(photo.source) if self.folder.ledger.taken(photo.source) else []
        if not rows:
            return None
        first = rows[0]
        if first.source_sha256:
            self.decisions.seen.add(first.source_sha256)
        caption = Caption(first.guessed_caption, guessed=bool(first.guessed_caption))
        photo = replace(photo, sha256=first.source_sha256, caption=caption, inputs=first.inputs, phash=first.phash)
        return replace(photo, size=first.source_size, notes=first.notes, finished=rows, taken=True)

    def _finished(self, photo: Photo) -> list[Row]:
        """With its own copy, too."""
        rows = finished_rows(self.folder, photo)
        return rows if self.raw is None or self.raw.holds(rows) else []

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
        """Only a photo that gives slices is one that others are held against, or would if no person had rejected them:
        else its copy would bring back what was rejected."""
        if any(row.file or row.kind == REJECTED for row in work.rows):
            for judge in self._comparing:
                judge.used(work.photo)
        return work

    def _detect(self, photos: Sequence[Photo]) -> dict[str, Work]:
        works: dict[str, Work] = {}
        for kit in {id(photo.kit): photo.kit for photo in photos}.values():
            ours = [photo for photo in photos if photo.kit is kit]
            views = [(photo.source, photo.pixels) for photo in ours if photo.pixels is not None]
            drawing = Drawing(kit.detector)
            found = decompose(views, drawing, kit.config)
            if self.masks.kind == DETECTOR:
                ours = [_drawn(photo, drawing) for photo in ours]
            works |= {
                photo.source: self._with_regions(photo, without_masked_out(regions, photo.mask))
                for photo, regions in zip(ours, found, strict=True)
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
        reason = reason_against(photo, self._asked(photo))
        if photo.finished and not reason:
            # What it was held against may be in the share of another process.
            if not self.alone or photo.finished[0].kind not in {judge.kind for judge in self._comparing}:
                return self._finished_work(photo)
            # The photo that it was held against has gone.
            photo = self.load((photo.source, photo.root), again=True)
            reason = reason_against(photo, self._asked(photo))
        if reason:
            photo = as_read(photo)
            return Work(photo, [lost_row(photo.origin, reason, photo.kit.config)])
        return Work(photo, [])

    def _asked(self, photo: Photo) -> Sequence[Filter]:
        """What a photo has to pass. One in which a person wants a slice stays, whatever it is like."""
        judges = self._comparing if photo.finished else self._filters
        wanted = self.decisions.pins(photo.sha256)
        return [judge for judge in judges if not (wanted and isinstance(judge, Comparing))]

    def _finished_work(self, photo: Photo) -> Work:
        """Nothing to do, or captions alone, where what they are made with has changed."""
        if rows := to_caption(photo):
            return Work(photo, rows)
        return Work(photo, list(photo.finished), new=False)

    def _with_regions(self, photo: Photo, regions: list[Region]) -> Work:
        kit = photo.kit
        if photo.unanswered:
            photo = replace(photo, notes=(*photo.notes, UNANSWERED))
        regions = obey(regions, self.decisions.of(photo.sha256), photo.size or (1, 1), kit.config)
        crops = [crop for region in regions for crop in region.crops]
        rows = region_rows(regions, photo.origin, kit.config, kit.detector.name, kit.upscaler.name)
        return Work(photo, rows, crops)


def _drawn(photo: Photo, drawing: Drawing) -> Photo:
    mask = drawing.of(photo.source)
    return replace(photo, mask=mask) if mask is not None else replace(photo, notes=(*photo.notes, NOT_DRAWN))


def bounded_map(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], limit: int) -> Iterator[R]:
    """`map` on the pool: results in order, at most `limit` items begun and not yet taken."""
    pending: deque[Future[R]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) >= limit:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _first(pending: deque[Future[T]]) -> list[T]:
    """The next batch's results, once they are there."""
    return [pending.popleft().result() for _ in range(min(DETECTOR_BATCH, len(pending)))]
