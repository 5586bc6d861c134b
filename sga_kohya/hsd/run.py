"""A whole run, from a folder of photos to a folder that can be trained on."""

import os
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from sga_kohya.errors import SgaError
from sga_kohya.hsd.captioners.captioner import Captioner
from sga_kohya.hsd.clips.cutting import Cutter, check_libraries
from sga_kohya.hsd.clips.found import clip_folders, take_clips
from sga_kohya.hsd.clips.labels import OFF
from sga_kohya.hsd.clips.levels import of_clips
from sga_kohya.hsd.clips.tally import ClipTally
from sga_kohya.hsd.kits import Kit, make_kits
from sga_kohya.hsd.masks.sources import Masks, find_masks, without_masks
from sga_kohya.hsd.memory import Memory, usual_size
from sga_kohya.hsd.out.dataset import dataset_of
from sga_kohya.hsd.out.dataset_raw import RawResult, write_raw
from sga_kohya.hsd.out.exports import texts
from sga_kohya.hsd.out.ledger import JOURNAL, STRIPS, Taken, collect, read_rows
from sga_kohya.hsd.out.manifest import MANIFEST, Row, caption_file, mask_file, mask_folder
from sga_kohya.hsd.out.names import assign_roots
from sga_kohya.hsd.out.output import OutputFolder, Swept
from sga_kohya.hsd.out.raw_folder import FOLDERS as RAW_FOLDERS
from sga_kohya.hsd.out.raw_folder import RawFolder
from sga_kohya.hsd.out.report import PAGES, write_report
from sga_kohya.hsd.out.tally import Tally
from sga_kohya.hsd.photos.finding import Found, find_images
from sga_kohya.hsd.photos.images import Header, load_plugins, read_header
from sga_kohya.hsd.pipeline import Pipeline, bounded_map
from sga_kohya.hsd.review.decisions import Decisions
from sga_kohya.hsd.review.sources import remember_photos
from sga_kohya.hsd.settings.config import HsdConfig
from sga_kohya.hsd.settings.config_file import to_toml
from sga_kohya.hsd.team import clear, journal_of, refuse_others
from sga_kohya.kit.files import LOCK, only_writer

PREVIEW = "preview"
"""Folder of OUT, see preview.py."""
MARKERS = (MANIFEST, JOURNAL, LOCK)
"""A sub-folder of PHOTOS with one of these holds results, or is being filled with them."""
HEADERS_AHEAD = 256

REMEDY = "give another OUT"
Made = Iterator[tuple[list[Row], bool]]
"""The rows of one source after the other, and whether they are new."""


@dataclass(frozen=True)
class Result:
    """out: absolute. foreign: files of other origin in the level folders, FOLDER/FILE.

    edited: captions, slices and masks that were kept because the user has edited them. unmatched: overrides for folders
    without photos. found: what lies in PHOTOS. unopened: photos that could not be opened, whose slices of earlier runs
    stay. decisions: of the review. swept: what became of files that are made no more; None in a preview. raw: what
    became of the photos' copies; None where only some photos were taken. stray_masks: of no photo. memory: as it was
    used. clips: of the clips; None where none were looked for.
    """

    out: Path
    tally: Tally
    foreign: list[str]
    edited: list[str]
    unmatched: list[str]
    found: Found
    unopened: list[str]
    decisions: Decisions
    memory: Memory
    clips: ClipTally | None = None
    swept: Swept | None = None
    raw: RawResult | None = None
    stray_masks: Sequence[str] = ()

    @property
    def rows(self) -> list[Row]:
        """The manifest, by source."""
        return list(read_rows(self.out))


def run(
    photos: Path,
    out: Path,
    config: HsdConfig,
    workers: int = 4,
    progress: bool = False,
    only: int | None = None,
    decided_in: Path | None = None,
    memory: int | None = None,
) -> Result:
    """Decomposes every image below `photos` into `out`. Never writes into `photos`, except into an `out` inside it.

    An unreadable or too small photo becomes a row with its reason. A rerun over the same `out`, also after a kill,
    takes over what is finished, replaces what has changed and removes what is no longer produced. only: that many
    photos, spread evenly. decided_in: the folder whose decisions are obeyed, `out` by default. memory: bytes that the
    photos in flight may take; one that is larger goes alone. Raises SgaError for what the user can correct.
    """
    job = prepare(photos, out, config, workers, progress, only, decided_in, memory)
    with only_writer(job.out, REMEDY):
        refuse_others(job.out)
        collect(job.out)
        pipeline = job.pipeline()
        result = finish(job, pipeline, plan(job, pipeline))
        clear(job.out)
        return result


@dataclass(frozen=True)
class Job:
    """What a run is to do, found and checked before it writes. sources: all photos, and all clips; only: how many of
    each it takes."""

    photos: Path
    out: Path
    config: HsdConfig
    workers: int
    progress: bool
    only: int | None
    found: Found
    sources: Sequence[str]
    clips: Sequence[str]
    masks: Masks
    kits: dict[str, Kit]
    decisions: Decisions
    room: Memory

    def pipeline(self, rank: int | None = None, run: str = "") -> Pipeline:
        """On OUT as it is now. rank: of one of several processes that is to do its share. run: as of Ledger."""
        folder = OutputFolder(self.out, slice_folders(self.config, self.masks, self.out), journal_of(rank), run)
        folder.remove_parts()
        raw = RawFolder(self.out, self.config, rank) if self.only is None else None
        parts = self.config, self.kits, self.masks, self.decisions, self.room
        return Pipeline(self.photos, folder, *parts, raw, alone=rank is None)


def prepare(
    photos: Path,
    out: Path,
    config: HsdConfig,
    workers: int,
    progress: bool,
    only: int | None = None,
    decided_in: Path | None = None,
    memory: int | None = None,
) -> Job:
    """Arguments and errors as of `run`."""
    photos, out = photos.resolve(), out.resolve()
    check_folders(photos, out, config)
    load_plugins()
    found = find_images(photos, out, MARKERS)
    clips = take_clips(found, photos, config)
    if clips:
        check_libraries(config, clips)
    sources = _sources(photos, found, config, clips)
    masks = find_masks(config.masks, photos, sources, MARKERS)
    kits = make_kits(config, photos)
    for told in captioning_costs(kits, config, sample(sources, only)):
        print(told, file=sys.stderr)
    room = Memory(usual_size() if memory is None else memory)
    decisions = Decisions(decided_in or out)
    return Job(photos, out, config, workers, progress, only, found, sources, clips, masks, kits, decisions, room)


@dataclass(frozen=True)
class Plan:
    """order: photos, each with the bytes that decoding it takes. roots: their names. clips: those of clips. kept: the
    rows of earlier runs, by photo and by clip that cannot be opened now."""

    order: Iterable[tuple[str, int]]
    roots: Mapping[str, str]
    clips: Mapping[str, str]
    kept: Mapping[str, list[Row]]

    def kept_of(self, moving: bool) -> list[list[Row]]:
        """Of clips, or of photos."""
        return [rows for rows in self.kept.values() if rows[0].moving == moving]


def plan(job: Job, pipeline: Pipeline) -> Plan:
    """Which photos and clips are taken, in which order, and what their slices are called."""
    folder = pipeline.folder
    photos, clips = sample(job.sources, job.only), sample(job.clips, job.only)
    below = [source for name in job.found.unreadable for source in folder.ledger.sources_below(name)]
    closed = [source for source in (*photos, *clips) if not os.access(job.photos / source, os.R_OK)]
    kept = {source: rows for source in (*below, *closed) if (rows := folder.made_before(source))}
    if job.config.clips == OFF:
        kept = {source: rows for source, rows in kept.items() if not rows[0].moving}
    photos, clips = ([source for source in some if source not in kept] for some in (photos, clips))
    # Names that stay are taken, even where the photos there are now would share them out otherwise.
    stay = folder.taken | {row.root for rows in kept.values() for row in rows}
    roots = assign_roots(photos, stay)
    # Clips leave the photos' names alone.
    return Plan(in_order(job, photos), roots, assign_roots(clips, stay | set(roots.values())), kept)


def finish(job: Job, pipeline: Pipeline, plan: Plan) -> Result:
    """Everything, but for what is finished."""
    out, config, folder = job.out, job.config, pipeline.folder
    tally, edited = _stream(job, pipeline, plan)
    film, edited_clips = _stream_clips(job, pipeline, plan)
    edited = sorted(edited + edited_clips)
    swept = folder.finish(texts(dataset_of(config, out, tally, film), config.export), to_toml(config))
    raw = None
    if pipeline.raw:
        with closing(pipeline.raw):
            raw = write_raw(job.photos, pipeline.raw)
    write_report(out, config, tally, None if job.only is None else len(job.sources), film)
    remember_photos(out, job.photos)
    unmatched = sorted(config.overrides.keys() - {config.override_of(source) for source in job.sources})
    foreign, seen = folder.foreign, (job.found, pipeline.unopened, job.decisions, job.room)
    if raw:
        swept = Swept(swept.removed + raw.removed, swept.left + raw.left, swept.aside + raw.aside)
        foreign = [*foreign, *raw.foreign]
    return Result(out, tally, foreign, edited, unmatched, *seen, film, swept, raw, job.masks.strays)


def slice_folders(config: HsdConfig, masks: Masks, out: Path) -> list[str]:
    """Names of the folders that slices and masks go to, as far as they are known."""
    folders = [level.folder for level in config.levels]
    labels = [level.name for level in of_clips(config).levels]
    return [*folders, *(map(mask_folder, folders) if masks.beside else ()), *clip_folders(out, labels)]


def _sources(photos: Path, found: Found, config: HsdConfig, clips: Sequence[str]) -> list[str]:
    """The photos below PHOTOS, with '/'. Raises SgaError where there is nothing."""
    images = without_masks(config.masks, photos, found.images)
    found.images.clear()  # a million paths are a third of a gigabyte
    if not images and not clips:
        raise SgaError(f"no images in {photos}: give a folder with .jpg, .png, .webp, … files in it or below it")
    return sorted(path.relative_to(photos).as_posix() for path in images)


def _stream(job: Job, pipeline: Pipeline, plan: Plan) -> tuple[Tally, list[str]]:
    """All photos, large ones first. Returns what the user has edited, too."""
    tally = Tally(level.name for level in job.config.levels)
    with threads(pipeline, job.workers) as pool:
        made = pipeline.stream(plan.order, plan.roots, pool, ahead=job.workers)
        return tally, _count(job, pipeline, made, len(plan.roots), plan.kept_of(moving=False), tally)


def _stream_clips(job: Job, pipeline: Pipeline, plan: Plan) -> tuple[ClipTally | None, list[str]]:
    """All clips, as `_stream`; None where there are none."""
    kept = plan.kept_of(moving=True)
    if not plan.clips and not kept:
        return None, []
    tally = ClipTally(level.name for level in of_clips(job.config).levels)
    with threads(pipeline, job.workers) as pool:
        made = Cutter(pipeline).stream(plan.clips, pool, job.workers)
        return tally, _count(job, pipeline, made, len(plan.clips), kept, tally)


def _count(job: Job, pipeline: Pipeline, made: Made, count: int, kept: Sequence[list[Row]], tally: Tally) -> list[str]:
    """What is made, of so many sources; then what cannot be opened now, as it is. Returns what the user has edited."""
    edited: list[str] = []
    with progress_bar(tally.unit, count, job.progress) as bar:
        for rows, taken in told(pipeline.folder, made):
            tally.add(rows, taken.new)
            edited += taken.edited
            bar.update()
    for rows in kept:
        pipeline.folder.done(rows, new=False)
        tally.add(rows, new=False)
        pipeline.unopened.append(rows[0].source)
    return edited


def progress_bar(unit: str, total: int, shown: bool) -> tqdm:
    return tqdm(total=total, unit=unit, disable=not (shown and total), smoothing=0.05)


def told(folder: OutputFolder, made: Made) -> Iterator[tuple[list[Row], Taken]]:
    """The rows of one source after the other, and what is to be said of them."""
    with one_thread_each():
        for rows, new in made:
            # What another process of this run has just finished was asked there.
            known = None if new else folder.ledger.taken(rows[0].source)
            yield rows, known or Taken(new, list(edited_files(folder, rows)))


@contextmanager
def threads(pipeline: Pipeline, workers: int) -> Iterator[ThreadPoolExecutor]:
    """That load and save. On Ctrl-C what is being written is finished, what only waits is not begun."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="hsd")
    try:
        yield pool
    except BaseException:
        pool.shutdown(cancel_futures=True)
        pipeline.folder.abandon()
        if pipeline.raw:
            pipeline.raw.close()
        raise
    pool.shutdown()


def in_order(job: Job, sources: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Each with the bytes that decoding it takes; the largest first, where near-duplicates are sought, as those stay.

    sources: sorted. Of near-duplicates one that a person has decided about comes first of all.
    """
    with ThreadPoolExecutor(job.workers, thread_name_prefix="header") as pool:
        headers = read_headers(job.photos, sources, pool)
        if job.config.near_duplicates < 0:
            yield from ((source, header.memory) for source, header in headers)
            return
        hidden = not job.progress
        bar = tqdm(headers, total=len(sources), unit="header", disable=hidden, delay=2, leave=False)
        pixels, memory = array("q"), array("q")
        for _, header in bar:
            pixels.append(header.pixels)
            memory.append(header.memory)
    decided = job.decisions.sources
    later = np.array([source not in decided for source in sources])
    for i in np.lexsort((-np.array(pixels), later)):
        yield sources[i], memory[i]


def read_headers(photos: Path, sources: Sequence[str], pool: ThreadPoolExecutor) -> Iterator[tuple[str, Header]]:
    """Of each photo, in order, read ahead of who asks."""
    return bounded_map(pool, lambda source: (source, read_header(photos / source)), sources, limit=HEADERS_AHEAD)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Keeps OpenCV from starting threads inside ours, which would only wait for each other."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def sample(sources: Sequence[str], count: int | None) -> list[str]:
    """`count` of them, evenly spread from the first to the last; all where there are no more."""
    if count is None or count >= len(sources):
        return list(sources)
    return [sources[i * len(sources) // count] for i in range(count)]


def captioning_costs(kits: Mapping[str, Kit], config: HsdConfig, sources: Sequence[str]) -> Iterator[str]:
    """What captioners say of so many slices as these photos can give, before the first is cut."""
    photos = Counter(config.override_of(source) for source in sources)
    slices: Counter[Captioner] = Counter()
    for name, kit in kits.items():
        finer = sum(level.max_slices for level in kit.config.finer)
        slices[kit.captioning.captioner] += photos[name] * kit.config.coarsest.max_slices * (1 + finer)
    for captioner, count in slices.items():
        if count and hasattr(captioner, "cost"):
            yield captioner.cost(count)


def edited_files(folder: OutputFolder, rows: Sequence[Row]) -> Iterator[str]:
    """Slices (told by their length), masks and captions that the user has edited."""
    for row in rows:
        if row.file and folder.resized(row):
            yield row.file
        if row.file and folder.edited(caption_file(row.file), row.caption_sha256):
            yield caption_file(row.file)
        if row.file and row.mask_sha256 and folder.edited(mask_file(row.file), row.mask_sha256):
            yield mask_file(row.file)


def check_folders(photos: Path, out: Path, config: HsdConfig) -> None:
    """Raises SgaError where reading or writing could not work, or would write among the photos."""
    if not photos.is_dir():
        raise SgaError(f"no folder {photos}: give the folder with your photos")
    if out.exists() and not out.is_dir():
        raise SgaError(f"OUT {out} is a file: give a folder")
    try:
        str(out).encode()
    except UnicodeEncodeError:
        raise SgaError(f"OUT {str(out)!a}: the name is not UTF-8, which dataset.toml has to be: rename it") from None
    folders = [level.folder for level in config.levels]
    names = [*folders, *map(mask_folder, folders), *RAW_FOLDERS, STRIPS, PAGES, PREVIEW]
    if out == photos or any(photos.is_relative_to(out / name) for name in names):
        raise SgaError(f"OUT {out} would write among the photos in {photos}: choose another OUT")
