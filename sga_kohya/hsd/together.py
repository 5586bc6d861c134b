"""A run by several processes: what process 0 does, and what the others do."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from sga_kohya.hsd.kits import make_kits
from sga_kohya.hsd.masks.sources import known_masks
from sga_kohya.hsd.memory import Memory, usual_size
from sga_kohya.hsd.out.ledger import collect
from sga_kohya.hsd.out.output import OutputFolder
from sga_kohya.hsd.out.raw_folder import RawFolder, collect_copies
from sga_kohya.hsd.photos.images import load_plugins
from sga_kohya.hsd.pipeline import Pipeline
from sga_kohya.hsd.review.decisions import Decisions
from sga_kohya.hsd.run import (
    MARKERS,
    REMEDY,
    Plan,
    Result,
    check_folders,
    cut,
    finish,
    plan,
    prepare,
    read_headers,
    slice_folders,
    threads,
)
from sga_kohya.hsd.settings.config import HsdConfig
from sga_kohya.hsd.team import PAUSE, Item, Leader, Process, Worker, clear, journal_of, refuse_others
from sga_kohya.kit.files import only_writer


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
        share = leader.hand_out([(source, planned.roots[source]) for source, _ in order])
        with tqdm(total=len(order), unit="photo", disable=not progress, smoothing=0.05) as bar:
            cut_share(pipeline, share, workers, lambda: bar.update(1 + leader.finished()))
            wait(leader, bar)
        for rank in leader.lost():
            said = f"process {rank} of {process.size} ended before its share was done: this one does it"
            print(said, file=sys.stderr)
        # What all have made is now what an earlier run has made.
        pipeline = job.pipeline(run=leader.run)
        result = finish(job, pipeline, Plan(order, planned.roots, planned.kept))
        clear(out)
    return result


def wait(leader: Leader, bar: tqdm) -> None:
    """Until no other is alive."""
    while waited := leader.awaited():
        bar.update(leader.finished())
        bar.set_postfix_str("waiting for " + ", ".join(f"process {rank}" for rank in waited), refresh=False)
        time.sleep(PAUSE)
    bar.update(leader.finished(now=True))


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
        masks = known_masks(own.masks, photos, MARKERS)
        folder = OutputFolder(out, slice_folders(own, masks, out), journal_of(process.rank), worker.run)
        room, raw = Memory(usual_size() if memory is None else memory), RawFolder(out, own, process.rank)
        parts = own, make_kits(own, photos), masks, Decisions(out), room, raw
        cut_share(Pipeline(photos, folder, *parts, alone=False), items, workers)


def cut_share(
    pipeline: Pipeline, items: Sequence[Item], workers: int, done: Callable[[], object] = lambda: None
) -> None:
    """What one process is to do, in journals of its own. done: called after each photo."""
    ledger = pipeline.folder.ledger
    with threads(pipeline, workers) as pool:
        headers = read_headers(pipeline.photos, [source for source, _ in items], pool)
        order = ((source, header.memory) for source, header in headers)
        for rows, taken in cut(pipeline, order, dict(items), pool, workers):
            # Of what cannot be opened now process 0 speaks.
            if rows[0].source not in pipeline.unopened:
                ledger.tell(rows[0].source, taken)
            done()
    pipeline.folder.abandon()
    if pipeline.raw:
        pipeline.raw.close()
