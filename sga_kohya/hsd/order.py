"""Which photos and clips a run takes, in which order, and what their slices are called."""

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sga_kohya.hsd.clips.labels import OFF
from sga_kohya.hsd.job import Job
from sga_kohya.hsd.out.manifest import Row
from sga_kohya.hsd.out.names import assign_roots
from sga_kohya.hsd.photos.finding import sample
from sga_kohya.hsd.photos.images import Header, read_header
from sga_kohya.hsd.pipeline import Pipeline, bounded_map

HEADERS_AHEAD = 256


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
