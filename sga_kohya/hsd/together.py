"""A run by several processes: what process 0 does, and what the others do."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path

from sga_kohya.hsd.clips.cutting import Cutter, check_libraries
from sga_kohya.hsd.clips.tally import ClipTally
from sga_kohya.hsd.job import MARKERS, check_folders, prepare, slice_folders
from sga_kohya.hsd.kits import make_kits
from sga_kohya.hsd.masks.sources import known_masks
from sga_kohya.hsd.memory import Memory, usual_size
from sga_kohya.hsd.order import plan, read_headers
from sga_kohya.hsd.out.ledger import collect
from sga_kohya.hsd.out.output import OutputFolder
from sga_kohya.hsd.out.raw_folder import RawFolder, collect_copies
from sga_kohya.hsd.out.tally import Tally
from sga_kohya.hsd.photos.images import load_plugins
from sga_kohya.hsd.pipeline import Pipeline
from sga_kohya.hsd.review.decisions import Decisions
from sga_kohya.hsd.run import REMEDY, Result, finish, progress_bar, threads, told
from sga_kohya.hsd.settings.config import HsdConfig
from sga_kohya.hsd.team import PAUSE, Item, Leader, Process, Worker, clear, journal_of, refuse_others
from sga_kohya.kit.files import only_writer
from sga_kohya.kit.pictures import is_clip


def lead(
    process: Process,
    photos: Path,
    out: Path,
    config: HsdConfig,
    workers: int = 4,
    progress: bool = False,
    memory: int | None = None,
) -> Result:
    """Of process 0: `run`, with the help of the others. Its result, and what is written, is that of one alone."""
    out = out.resolve()
    check_folders(photos.resolve(), out, config)
    leader = Leader(out, process)
    with only_writer(out, REMEDY), leader.leading():
        refuse_others(out, process)
        job = prepare(photos, out, config, workers, progress, memory=memory)
        collect(out)
        collect_copies(out)
        pipeline = job.pipeline(0, leader.run)
        planned = plan(job, pipeline)
        order = list(planned.order)
        ordered = [(source, planned.roots[source]) for source, _ in order]
        share = leader.hand_out(ordered, list(planned.clips.items()))
        with bars(len(order), len(planned.clips), progress) as finished:
            cut_share(pipeline, share, workers, lambda source: finished([source, *leader.finished()]))
            wait(leader, finished)
        for rank in leader.lost():
            said = f"process {rank} of {process.size} ended before its share was done: this one does it"
            print(said, file=sys.stderr)
        # What all have made is now what an earlier run has made.
        pipeline = job.pipeline(run=leader.run)
        result = finish(job, pipeline, replace(planned, order=order))
        clear(out)
    return result


@contextmanager
def bars(photos: int, clips: int, shown: bool) -> Iterator[Callable[..., None]]:
    """One of photos, one of clips. Gives what is to be told which sources are finished, and who is waited for."""
    with progress_bar(Tally.unit, photos, shown) as still, progress_bar(ClipTally.unit, clips, shown) as moving:

        def finished(sources: Sequence[str], waited: Sequence[int] = ()) -> None:
            if waited:
                names = ", ".join(f"process {rank}" for rank in waited)
                (moving if clips else still).set_postfix_str(f"waiting for {names}", refresh=False)
            for source in sources:
                (moving if is_clip(Path(source)) else still).update()

        yield finished


def wait(leader: Leader, finished: Callable[..., None]) -> None:
    """Until no other is alive."""
    while waited := leader.awaited():
        finished(leader.finished(), waited)
        time.sleep(PAUSE)
    finished(leader.finished(now=True))


def work(
    process: Process,
    photos: Path,
    out: Path,
    config: Callable[[], HsdConfig],
    workers: int = 4,
    memory: int | None = None,
) -> None:
    """Of the others. config: asked for when process 0 has found nothing wrong. Raises SgaError."""
    photos, out = photos.resolve(), out.resolve()
    load_plugins()
    worker = Worker(out, process)
    with worker.working() as items:
        own = config()
        if clips := [source for source, _ in items if is_clip(Path(source))]:
            check_libraries(own, clips)
        masks = known_masks(own.masks, photos, MARKERS)
        folder = OutputFolder(out, slice_folders(own, masks, out), journal_of(process.rank), worker.run)
        room, raw = Memory(usual_size() if memory is None else memory), RawFolder(out, own, process.rank)
        parts = own, make_kits(own, photos), masks, Decisions(out), room, raw
        cut_share(Pipeline(photos, folder, *parts, alone=False), items, workers)


def cut_share(
    pipeline: Pipeline, items: Sequence[Item], workers: int, done: Callable[[str], object] = lambda source: None
) -> None:
    """What one process is to do, in journals of its own: its photos, then its clips. done: called after each."""
    folder = pipeline.folder
    clips = {source: root for source, root in items if is_clip(Path(source))}
    photos = {source: root for source, root in items if source not in clips}
    with threads(pipeline, workers) as pool:
        headers = read_headers(pipeline.photos, list(photos), pool)
        order = ((source, header.memory) for source, header in headers)
        cut = pipeline.stream(order, photos, pool, ahead=workers)
        cut_clips = Cutter(pipeline).stream(clips, pool, workers)
        for rows, taken in told(folder, chain(cut, cut_clips)):
            source = rows[0].source
            # Of what cannot be opened now process 0 speaks.
            if source not in pipeline.unopened:
                folder.ledger.tell(source, taken)
            done(source)
    folder.abandon()
    if pipeline.raw:
        pipeline.raw.close()
