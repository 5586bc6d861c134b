"""A whole run, from a folder of photos to a folder that can be trained on."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
from tqdm import tqdm

from sga_kohya.hsd.clips.cutting import Cutter
from sga_kohya.hsd.clips.levels import of_clips
from sga_kohya.hsd.clips.tally import ClipTally
from sga_kohya.hsd.job import Job, prepare
from sga_kohya.hsd.memory import Memory
from sga_kohya.hsd.order import Plan, plan
from sga_kohya.hsd.out.dataset import dataset_of
from sga_kohya.hsd.out.dataset_raw import RawResult, write_raw
from sga_kohya.hsd.out.exports import texts
from sga_kohya.hsd.out.files import caption_file, mask_file
from sga_kohya.hsd.out.ledger import Taken, collect
from sga_kohya.hsd.out.lines import read_rows
from sga_kohya.hsd.out.manifest import Row
from sga_kohya.hsd.out.output import OutputFolder, Swept
from sga_kohya.hsd.out.report import write_report
from sga_kohya.hsd.out.tally import Tally
from sga_kohya.hsd.photos.finding import Found
from sga_kohya.hsd.pipeline import Pipeline
from sga_kohya.hsd.review.decisions import Decisions
from sga_kohya.hsd.review.sources import remember_photos
from sga_kohya.hsd.settings.config import HsdConfig
from sga_kohya.hsd.settings.config_file import to_toml
from sga_kohya.hsd.team import clear, refuse_others
from sga_kohya.kit.files import only_writer

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


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Keeps OpenCV from starting threads inside ours, which would only wait for each other."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def edited_files(folder: OutputFolder, rows: Sequence[Row]) -> Iterator[str]:
    """Slices (told by their length), masks and captions that the user has edited."""
    for row in rows:
        if row.file and folder.resized(row):
            yield row.file
        if row.file and folder.edited(caption_file(row.file), row.caption_sha256):
            yield caption_file(row.file)
        if row.file and row.mask_sha256 and folder.edited(mask_file(row.file), row.mask_sha256):
            yield mask_file(row.file)
