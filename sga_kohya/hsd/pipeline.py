"""The streaming run: loader threads, one detecting thread, saver threads, a bounded number of photos in flight.

The calling thread detects, batch by batch; a pool of threads loads ahead of it and saves behind it. Results are taken
in the order of the photos, so that the output does not depend on how the threads happen to be scheduled.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from sga_kohya.errors import SgaError
from sga_kohya.hsd.captions import find_caption
from sga_kohya.hsd.config import HsdConfig
from sga_kohya.hsd.dataset_toml import dataset_toml
from sga_kohya.hsd.decompose import Slice, decompose, render
from sga_kohya.hsd.detect import Detector, make_detector
from sga_kohya.hsd.images import UnreadableImage, decode_image, encode_image, find_images
from sga_kohya.hsd.manifest import MANIFEST, Row, group_rows, unusable_row
from sga_kohya.hsd.names import assign_roots
from sga_kohya.hsd.output import OutputFolder

DETECTOR_BATCH = 4
"""Photos per call of the detector, all held in memory at their full size."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Photo:
    """One source as loaded. source: below PHOTOS, '/' separators. pixels: (H, W, 3) RGB uint8, None with a problem."""

    source: str
    root: str
    caption: str
    sha256: str | None = None
    pixels: np.ndarray | None = None
    problem: str = ""


@dataclass(frozen=True)
class Work:
    """What to save of one photo: slices, kept or not, with a row each; of an unreadable one only a row."""

    photo: Photo
    slices: Sequence[Slice]
    rows: list[Row]


@dataclass(frozen=True)
class Result:
    """rows: the manifest, by source. foreign: files of other origin in the level folders, FOLDER/FILE."""

    rows: list[Row]
    foreign: list[str]


def run(photos: Path, out: Path, config: HsdConfig, workers: int = 4, progress: bool = False) -> Result:
    """Decomposes every image below `photos` into `out`. Never writes into `photos`, except into an `out` inside it.

    An unreadable or too small photo becomes a row with its reason. A rerun over the same `out` replaces what it made,
    leaves unchanged files alone and removes what is no longer produced. Raises SgaError for what the user can correct.
    """
    photos, out = photos.resolve(), out.resolve()
    check_folders(photos, out, config)
    sources = [path.relative_to(photos).as_posix() for path in find_images(photos, out, MANIFEST)]
    if not sources:
        raise SgaError(f"no images in {photos}: give a folder with .jpg, .png, .webp, … files in it or below it")
    detector = make_detector(config)
    folder = OutputFolder(out, [level.folder for level in config.levels])
    pipeline = Pipeline(photos, folder, detector, config)
    # Part 5 resumes here: a source whose journal rows still hold need not be streamed again.
    roots = assign_roots(sources, (Path(file).stem for file in folder.foreign))
    rows: list[Row] = []
    pool = ThreadPoolExecutor(workers, thread_name_prefix="hsd")
    try:
        with tqdm(total=len(sources), unit="photo", disable=not progress) as bar:
            for finished in pipeline.stream(roots, pool, ahead=workers):
                rows += finished
                bar.update()
    finally:
        # On Ctrl-C the files being written are finished, those that only wait are not begun.
        pool.shutdown(cancel_futures=True)
        folder.close()
    present = {row.granularity for row in rows if row.file}
    folder.finish(rows, dataset_toml(config, out, present) if present else None)
    return Result(rows, folder.foreign)


def check_folders(photos: Path, out: Path, config: HsdConfig) -> None:
    """Raises SgaError where reading or writing could not work, or would write among the photos."""
    if not photos.is_dir():
        raise SgaError(f"no folder {photos}: give the folder with your photos")
    if out.exists() and not out.is_dir():
        raise SgaError(f"OUT {out} is a file: give a folder")
    if out == photos or any(photos.is_relative_to(out / level.folder) for level in config.levels):
        raise SgaError(f"OUT {out} would write among the photos in {photos}: choose another OUT")


class Pipeline:
    """load -> plan -> save, each for one photo or one batch, and `stream`, which runs them side by side."""

    def __init__(self, photos: Path, folder: OutputFolder, detector: Detector, config: HsdConfig) -> None:
        self.photos, self.folder, self.detector, self.config = photos, folder, detector, config

    def stream(self, roots: dict[str, str], pool: ThreadPoolExecutor, ahead: int) -> Iterator[list[Row]]:
        """roots: names by source. ahead: photos in flight on each side of the detector.

        Yields the rows of one photo after the other, by source, once its files are written.
        """
        loaded = bounded_map(pool, self.load, sorted(roots.items()), limit=ahead + DETECTOR_BATCH)
        planned = (work for batch in batched(loaded, DETECTOR_BATCH) for work in self.plan(batch))
        yield from bounded_map(pool, self.save, planned, limit=ahead + 1)

    def load(self, item: tuple[str, str]) -> Photo:
        """item: source and root. What cannot be read becomes the photo's problem."""
        source, root = item
        path, digest = self.photos / source, None
        try:
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            caption = find_caption(path, self.photos, self.config.caption)
            return Photo(source, root, caption, digest, decode_image(data))
        except (OSError, UnreadableImage) as error:
            return Photo(source, root, "", digest, problem=f"unreadable: {error}")

    def plan(self, batch: Sequence[Photo]) -> Iterator[Work]:
        """Detects in the whole batch, then yields it photo by photo; the only stage that touches the detector."""
        images = [photo.pixels for photo in batch if photo.pixels is not None]
        decomposed = iter(decompose(images, self.detector, self.config))
        for photo in batch:
            if photo.pixels is None:
                row = unusable_row(photo.source, photo.root, photo.sha256, photo.problem, self.config)
                work = Work(photo, [], [row])
            else:
                groups = next(decomposed)
                named = (photo.source, photo.root, photo.sha256, self.config, self.detector.name)
                slices = [piece for group in groups for piece in group.slices]
                work = Work(photo, slices, group_rows(groups, *named))
            self.folder.announce(work.rows)
            yield work

    def save(self, work: Work) -> list[Row]:
        """Cuts, resizes, encodes and writes the kept slices of one photo."""
        # Not strict: an unreadable photo has a row but no slice.
        for piece, row in zip(work.slices, work.rows, strict=False):
            if row.file and work.photo.pixels is not None:
                pixels = render(work.photo.pixels, piece)
                self.folder.write_slice(row.file, encode_image(pixels, self.config.format), work.photo.caption)
        return work.rows


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
