"""The streaming run: loader threads, one detecting thread, saver threads; photos in flight bounded in number and bytes.

The calling thread detects, batch by batch; a pool of threads loads ahead of it and saves behind it. Results are taken
in the order of the photos, so that the output does not depend on how the threads happen to be scheduled.
"""

import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from sga_kohya.hsd.captioners.captioning import FAILED, NOTES, Captioned
from sga_kohya.hsd.cut.decompose import Crop, Region, decompose, render
from sga_kohya.hsd.detect import UNANSWERED
from sga_kohya.hsd.kits import Kit
from sga_kohya.hsd.masks.slices import Drawing, slice_mask, without_masked_out
from sga_kohya.hsd.masks.sources import ALPHA, DETECTOR, NOT_DRAWN, Masks, UnreadableMask
from sga_kohya.hsd.memory import Memory
from sga_kohya.hsd.out.ledger import digest, strip_file, view_file
from sga_kohya.hsd.out.manifest import (
    UNREADABLE,
    UNREADABLE_CAPTION,
    UNREADABLE_MASK,
    Row,
    caption_file,
    lost_row,
    mask_file,
    region_rows,
)
from sga_kohya.hsd.out.output import OutputFolder, caption_bytes
from sga_kohya.hsd.out.strips import strip, tile, view
from sga_kohya.hsd.photos.captions import UnreadableCaption, find_caption
from sga_kohya.hsd.photos.filters import Comparing, Filter, filter_names, make_filters, reason_against
from sga_kohya.hsd.photos.filters.near_duplicates import perceptual_hash
from sga_kohya.hsd.photos.images import UnreadableImage, decode_image, decode_slice, encode_image
from sga_kohya.hsd.photos.photo import Photo
from sga_kohya.hsd.photos.png import encode_png
from sga_kohya.hsd.review.decisions import Decisions, Place
from sga_kohya.hsd.review.obey import REJECTED, obey
from sga_kohya.hsd.settings.config import HsdConfig

DETECTOR_BATCH = 4
"""Photos per call of the detector, at most, all held in memory at their full size."""

FORMAT = 6
"""Raise it when the same photo and settings give other slices or rows than before: earlier ones are then redone."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Work:
    """What to save of one photo. rows: one for each crop, kept or not, or one alone; new: they have yet to be made.

    crops: what is to be cut; without them, new rows with files are those whose captions alone are made anew.
    """

    photo: Photo
    rows: list[Row]
    crops: Sequence[Crop] = ()
    new: bool = True


class Pipeline:
    """load -> plan -> save, each for one photo or one batch, and `stream`, which runs them side by side.

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
    ) -> None:
        """kits: by their names in `config.overrides`, "" for the rest. decisions: of the review."""
        self.photos, self.folder, self.config, self.kits, self.masks = photos, folder, config, kits, masks
        self.decisions, self.memory = decisions, memory
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
            return self.save(taken.pop())
        finally:
            self.memory.hold(source, 0)

    def load(self, item: tuple[str, str], again: bool = False) -> Photo:
        """item: source and root. What cannot be read becomes the photo's problem. again: also what is finished."""
        source, root = item
        kit = self.kits[self.config.override_of(source)]
        photo, path = Photo(source, root, kit), self.photos / source
        try:
            data = path.read_bytes()
            photo = replace(photo, sha256=digest(data), caption=find_caption(path, self.photos, kit.config.caption))
            inputs = [FORMAT, source, root, photo.sha256, photo.caption.__dict__, kit.digest, filter_names()]
            inputs += [self.masks.state(source), *self.decisions.inputs(photo.sha256)]
            self.decisions.seen.add(digest(data))
            photo = replace(photo, inputs=digest(json.dumps(inputs).encode()))
            finished = [] if again else self._finished(photo)
            if finished:
                first = finished[0]
                return replace(photo, size=first.source_size, phash=first.phash, notes=first.notes, finished=finished)
            pixels, notes = decode_image(data)
            size = pixels.shape[1], pixels.shape[0]
            mask, said = self.masks.of(source, data, size)
            notes = (*photo.caption.notes, *notes, *said)
            return replace(photo, pixels=pixels, mask=mask, size=size, notes=notes, phash=perceptual_hash(pixels))
        except UnreadableCaption as error:
            return replace(photo, problem=f"{UNREADABLE_CAPTION}: {error}")
        except UnreadableMask as error:
            return replace(photo, problem=f"{UNREADABLE_MASK}: {error}")
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
            if photo.finished[0].kind not in {judge.kind for judge in self._comparing}:
                return self._finished_work(photo)
            # The photo that it was held against has gone.
            photo = self.load((photo.source, photo.root), again=True)
            reason = reason_against(photo, self._asked(photo))
        if reason:
            return Work(replace(photo, pixels=None), [lost_row(photo.origin, reason, photo.kit.config)])
        return Work(photo, [])

    def _asked(self, photo: Photo) -> Sequence[Filter]:
        """What a photo has to pass. One in which a person wants a slice stays, whatever it is like."""
        judges = self._comparing if photo.finished else self._filters
        wanted = self.decisions.pins(photo.sha256)
        return [judge for judge in judges if not (wanted and isinstance(judge, Comparing))]

    def _finished_work(self, photo: Photo) -> Work:
        """Nothing to do, or captions alone, where what they are made with has changed."""
        rows = list(photo.finished)
        if all(row.captioned == photo.kit.captions_digest for row in rows if row.file):
            return Work(photo, rows, new=False)
        own = photo.origin.guessed_caption
        return Work(photo, [replace(row, guessed_caption=own) for row in rows])

    def _with_regions(self, photo: Photo, regions: list[Region]) -> Work:
        kit = photo.kit
        if photo.source in getattr(kit.detector, "unanswered", ()):
            photo = replace(photo, notes=(*photo.notes, UNANSWERED))
        regions = obey(regions, self.decisions.of(photo.sha256), photo.size or (1, 1), kit.config)
        crops = [crop for region in regions for crop in region.crops]
        rows = [
            row
            if row.file is None
            else replace(
                row,
                upscaler=kit.upscaler.name if row.upscaled else None,
                super_resolved=row.upscaled and kit.config.upscale_model is not None,
            )
            for row in region_rows(regions, photo.origin, kit.config, kit.detector.name)
        ]
        return Work(photo, rows, crops)

    def save(self, work: Work) -> tuple[list[Row], bool]:
        """Cuts, captions, encodes and writes what is new of one photo. Returns its rows and whether they are new."""
        if work.crops and work.photo.pixels is not None:
            return self._cut(work.photo, work.photo.pixels, work.rows, work.crops), True
        if work.new and any(row.file for row in work.rows):
            return self._captioned(work.photo, work.rows, self._read_slice, {}), True
        return work.rows, work.new

    def _cut(self, photo: Photo, pixels: np.ndarray, rows: list[Row], crops: Sequence[Crop]) -> list[Row]:
        kept = {row.file: crop for row, crop in zip(rows, crops, strict=True) if row.file}
        pictures = {file: render(pixels, crop, photo.kit.upscaler.enlarge) for file, crop in kept.items()}
        files = self._files(photo, kept, pictures)
        tiles = defaultdict(list)
        for row in rows:
            if row.file:
                tiles[str(row.group)].append(tile(pictures[row.file]))
        shown = {strip_file(group): strip(parts) for group, parts in tiles.items()}
        if shown:
            shown[view_file(photo.root)] = view(pixels)
        rows = [_recorded(row, row.file, files, shown) if row.file else row for row in rows]
        rows = self._captioned(photo, rows, lambda row: decode_slice(files[str(row.file)]), files)
        for name, picture in shown.items():
            self.folder.write_picture(name, picture)
        return rows

    def _files(self, photo: Photo, kept: Mapping[str, Crop], pictures: Mapping[str, np.ndarray]) -> dict[str, bytes]:
        """What is written of the crops beside captions. All by file."""
        files = {}
        for file, crop in kept.items():
            picture = pictures[file]
            if self.masks.beside:
                files[mask_file(file)] = encode_png(slice_mask(photo.mask, crop)[..., None])
            elif self.masks.kind == ALPHA:  # of all photos alike: ai-toolkit asks every slice for its transparency
                picture = np.dstack([picture, slice_mask(photo.mask, crop)])
            files[file] = encode_image(picture, photo.kit.config.format)
        return files

    def _captioned(
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
        file = caption_file(row.file)
        contents = {name: files[name] for name in (row.file, mask_file(row.file)) if name in files}
        if row.file not in captions:
            self.folder.write_slice(row.file, contents)
            return replace(row, caption_sha256=self.folder.as_written(file))
        contents[file] = caption_bytes(captions[row.file].text)
        self.folder.write_slice(row.file, contents, saw.get(row.file, ""))
        return replace(row, caption_sha256=digest(contents[file]))

    def _read_slice(self, row: Row) -> np.ndarray:
        return decode_slice((self.folder.path / str(row.file)).read_bytes())


def _may_replace(place: Place | None) -> list[str]:
    """The digests of a caption file that are no edit where a caption was written in the review."""
    return [digest(caption_bytes(place.caption)), place.saw] if place else []


def _recorded(row: Row, file: str, files: Mapping[str, bytes], shown: Mapping[str, bytes]) -> Row:
    """A row with what there is to say of the slice's files, and of the report's pictures in `shown`."""
    mask = files.get(mask_file(file))
    return replace(
        row,
        sha256=digest(files[file]),
        bytes=len(files[file]),
        mask_sha256=None if mask is None else digest(mask),
        strip_sha256=digest(shown[strip_file(str(row.group))]),
        view_sha256=digest(shown[view_file(row.root)]),
    )


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
