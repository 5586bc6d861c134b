"""All clips of a run: load -> plan -> save, side by side, as `pipeline` has it for photos.

No clip is ever in memory. Threads hash, index and write; the calling thread alone asks the detector.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from sga_kohya.hsd.clips.copies import Copies
from sga_kohya.hsd.clips.labels import SHOT, SPATIAL
from sga_kohya.hsd.clips.levels import of_clips
from sga_kohya.hsd.clips.plan import Part, parts
from sga_kohya.hsd.clips.reading import Clip, Damage, examine, pyav
from sga_kohya.hsd.clips.saving import Cut, make
from sga_kohya.hsd.clips.shots import scenedetect
from sga_kohya.hsd.clips.writing import MOVIE, check_encoder, middle_frame
from sga_kohya.hsd.detect import UNANSWERED, means_of
from sga_kohya.hsd.finished import finished_rows, to_caption, unopened
from sga_kohya.hsd.kits import settings_digest
from sga_kohya.hsd.out.files import digest, strip_file, view_file
from sga_kohya.hsd.out.manifest import UNREADABLE, UNREADABLE_CAPTION, ClipRow, Row, lost_row, region_rows
from sga_kohya.hsd.photos.captions import UnreadableCaption, find_caption
from sga_kohya.hsd.photos.images import decode_slice
from sga_kohya.hsd.photos.photo import Photo
from sga_kohya.hsd.pipeline import Pipeline, bounded_map
from sga_kohya.hsd.review.obey import REJECTED, obey
from sga_kohya.hsd.saving import Saver, shown_in
from sga_kohya.hsd.settings.config import HsdConfig
from sga_kohya.kit.files import sha256
from sga_kohya.kit.text import counted, safe

FORMAT = 2
"""Raise it when the same clip and settings give other slices or rows than before: earlier ones are then redone."""
TOO_SHORT = "too short"
CUT_INSIDE = "a cut seems to be inside: clip_shots keeps slices within a shot"
SLOWER = "fewer frames a second than the slices: some are repeated"
SLOW = 0.95
"""Share of the slices' frames a second from which on that is said: 15 are no 16, 23.976 are 24."""


@dataclass(frozen=True)
class Film:
    """A clip on its way: what it shares with photos, and what it is. clip: None with a problem, or where it is done."""

    photo: Photo
    clip: Clip | None = None


@dataclass(frozen=True)
class Work:
    """What to save of a clip. rows: of all its groups. cuts: what is to be written, by group. new: they are not there
    yet; without cuts it is their captions that are not."""

    film: Film
    rows: list[Row]
    cuts: Mapping[str, list[Cut]] = field(default_factory=dict)
    new: bool = True


def check_libraries(config: HsdConfig, clips: Sequence[str]) -> None:
    """clips: those there are. Raises SgaError for what is missing, before anything is read."""
    there = f"PHOTOS holds {counted(len(clips), 'clip')}, such as {safe(clips[0])}"
    pyav(f"{there} (--clips off passes over clips and cuts the photos alone): cutting clips")
    check_encoder()
    if config.clip_shots or (config.clips != SPATIAL and SHOT in (label.name for label in config.clip_labels)):
        scenedetect()


class Cutter:
    """pipeline: of the photos of the same run, whose folder, decisions and captions are those of clips, too."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline, self.config, self.folder = pipeline, pipeline.config, pipeline.folder
        self._saver = Saver(pipeline.folder, pipeline.masks, pipeline.decisions)
        own = {name: of_clips(kit.config) for name, kit in pipeline.kits.items()}
        self._levels = own
        self._copies = Copies(self.config.near_duplicates >= 0)
        means = {name: means_of(kit.detector) for name, kit in pipeline.kits.items()}
        self._digests = {name: settings_digest(config, means[name]) for name, config in own.items()}

    def stream(
        self, roots: Mapping[str, str], pool: ThreadPoolExecutor, workers: int
    ) -> Iterator[tuple[list[Row], bool]]:
        """The rows of one clip after the other, in order, once its files are there, and whether they are new.

        roots: names by source.
        """
        loaded = bounded_map(pool, self.load, sorted(roots.items()), limit=2)
        planned = map(self.plan, loaded)
        saved = bounded_map(pool, self.save, planned, limit=workers + 1)
        for rows, new in saved:
            self.folder.done(rows, new)
            yield rows, new

    def load(self, item: tuple[str, str], again: bool = False) -> Film:
        """item: source and root. What cannot be read becomes the clip's problem. again: also what is finished."""
        source, root = item
        kit = self.pipeline.kits[self.config.override_of(source)]
        photo, path = Photo(source, root, kit), self.pipeline.photos / source
        if not again and (taken := self.pipeline.taken(photo)):
            return Film(taken)
        try:
            known = sha256(path)
            photo = replace(photo, sha256=known, caption=find_caption(path, self.pipeline.photos, kit.config.caption))
            self.pipeline.decisions.seen.add(known)
            photo = replace(photo, inputs=self._inputs(photo))
            if not again and (finished := finished_rows(self.folder, photo)):
                first = finished[0]
                return Film(replace(photo, size=first.source_size, notes=first.notes, finished=finished))
            clip = examine(path)
            return Film(replace(photo, size=clip.size, notes=(*photo.caption.notes, *clip.notes)), clip)
        except UnreadableCaption as error:
            return Film(replace(photo, problem=f"{UNREADABLE_CAPTION}: {error}"))
        except Damage as error:
            return Film(replace(photo, problem=f"{UNREADABLE}: {error}"))
        except OSError as error:
            return Film(unopened(self.folder, photo, error))

    def _inputs(self, photo: Photo) -> str:
        """Digest of all that the clip's rows depend on."""
        config = photo.kit.config
        settings = [config.clips, config.clip_fps, config.clip_frames, config.clip_segments, config.clip_shots]
        settings += [str(label) for label in config.clip_labels]
        inputs = [FORMAT, photo.source, photo.root, photo.sha256, photo.caption.__dict__, settings]
        inputs += [self._digests[self.config.override_of(photo.source)], photo.kit.config.format]
        inputs += self.pipeline.decisions.inputs(photo.sha256)
        return digest(json.dumps(inputs).encode())

    def plan(self, film: Film) -> Work:
        """Says what to save of one clip after the other; the only stage that touches detectors."""
        photo = film.photo
        reason = None if self.pipeline.decisions.pins(photo.sha256) else self._copies(photo)
        if reason:
            # As if nothing had been sought in it, which one process may have done and another not.
            return Work(film, [self._lost(replace(photo, size=None, notes=()), reason)])
        if self.pipeline.alone and photo.finished and photo.finished[0].kind == self._copies.kind:
            # The clip that it was a copy of has gone, or gives nothing now.
            film = self.load((photo.source, photo.root), again=True)
        work = self._without_copies(film)
        if any(row.file or row.kind == REJECTED for row in work.rows):
            self._copies.used(photo)
        return work

    def _without_copies(self, film: Film) -> Work:
        photo, clip = film.photo, film.clip
        if photo.problem and photo.finished:
            self.pipeline.unopened.append(photo.source)
            return Work(film, list(photo.finished), new=False)
        if photo.finished:
            rows = to_caption(photo)
            return Work(film, rows or list(photo.finished), new=bool(rows))
        if clip is None:
            return Work(film, [self._lost(photo, photo.problem)])
        found = list(parts(clip, photo.source, photo.kit.detector, photo.kit.config))
        if not found:
            least = f"{clip.frames} frames, {clip.seconds:.2f} s, that can be decoded"
            return Work(film, [self._lost(photo, f"{TOO_SHORT}: {least}")])
        return self._with_parts(film, clip, found)

    def _lost(self, photo: Photo, reason: str) -> Row:
        return ClipRow(**lost_row(photo.origin, reason, self._config_of(photo)).__dict__)

    def _config_of(self, photo: Photo) -> HsdConfig:
        return self._levels[self.config.override_of(photo.source)]

    def _with_parts(self, film: Film, clip: Clip, found: Sequence[Part]) -> Work:
        photo, own, kit = film.photo, self._config_of(film.photo), film.photo.kit
        fps = kit.config.clip_fps
        notes = list(photo.notes)
        notes += [SLOWER] if clip.fps < SLOW * fps else []
        notes += [CUT_INSIDE] if any(part.cut for part in found) else []
        notes += [UNANSWERED] if photo.unanswered else []
        photo = replace(photo, notes=tuple(notes))
        regions = obey([part.region for part in found], self.pipeline.decisions.of(photo.sha256), clip.size, own)
        rows: list[Row] = []
        cuts: dict[str, list[Cut]] = {}
        crops = [(region, crop) for region in regions for crop in region.crops]
        plain = region_rows(regions, photo.origin, own, kit.detector.name, kit.upscaler.name)
        for row, (region, crop) in zip(plain, crops, strict=True):
            number = next(i for i, other in enumerate(regions) if other is region)
            span = found[min(number, len(found) - 1)].spans[crop.level]
            rows.append(clip_row(row, span.start / fps, span.frames, fps))
            if crop.kept:
                cuts.setdefault(str(row.group), []).append(Cut(str(rows[-1].file), crop, span))
        return Work(Film(photo, clip), _with_parents(rows), cuts)

    def save(self, work: Work) -> tuple[list[Row], bool]:
        """Decodes, cuts and writes what is new of one clip. Returns its rows and whether they are new."""
        if work.cuts and work.film.clip:
            return self._cut(work.film.photo, work.film.clip, work), True
        if work.new and any(row.file for row in work.rows):
            return self._saver.captioned(work.film.photo, work.rows, self._read, {}), True
        return work.rows, work.new

    def _cut(self, photo: Photo, clip: Clip, work: Work) -> list[Row]:
        files: dict[str, bytes] = {}
        pictures: dict[str, bytes] = {}
        view = view_file(photo.root, moving=True)
        for group, cuts in work.cuts.items():
            made = make(clip, photo.kit, cuts)
            files |= made.files
            pictures[strip_file(group, moving=True)] = made.strip
            pictures.setdefault(view, made.view)
        for file in files:
            (self.folder.path / file).parent.mkdir(exist_ok=True)
        rows = self._saver.captioned(photo, work.rows, lambda row: _picture(row, files[str(row.file)]), files)
        shown = self.folder.write_pictures(pictures)
        return [shown_in(row, shown) if row.file else row for row in rows]

    def _read(self, row: Row) -> np.ndarray:
        return _picture(row, (self.folder.path / str(row.file)).read_bytes())


def clip_row(row: Row, start: float, frames: int, fps: float) -> Row:
    """A photo's row as a clip's: its file lies in a folder of its label, size and length, which is one data set."""
    file = row.file
    if file and row.size and frames > 1:
        stem = Path(file).stem
        file = f"{row.granularity}_{row.size[0]}x{row.size[1]}x{frames}/{stem}.{MOVIE}"
    return ClipRow(**{**row.__dict__, "file": file}, frames=frames, fps=float(fps), start=round(start, 3))


def _with_parents(rows: Sequence[Row]) -> list[Row]:
    """parent: the group's coarsest slice, by the name that it has now."""
    firsts: dict[str | None, Row] = {}
    for row in rows:
        firsts.setdefault(row.group, row)
    return [row if row is firsts[row.group] else replace(row, parent=firsts[row.group].file) for row in rows]


def _picture(row: Row, data: bytes) -> np.ndarray:
    frames = getattr(row, "frames", 1)
    return middle_frame(data, frames) if frames > 1 else decode_slice(data)
