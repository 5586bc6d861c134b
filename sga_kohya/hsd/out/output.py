"""The output folder: writes atomically, keeps account of its own files, and leaves everyone else's alone."""

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sga_kohya.errors import SgaError
from sga_kohya.hsd.out.exports import EXPORTS, caches_by_stem, remove_empty_caches
from sga_kohya.hsd.out.exports.export import HEADER
from sga_kohya.hsd.out.files import MASKS, STRIPS, caption_file, digest, mask_file, strip_file, view_file
from sga_kohya.hsd.out.ledger import JOURNAL, Ledger
from sga_kohya.hsd.out.lines import recorded_files
from sga_kohya.hsd.out.manifest import Row
from sga_kohya.hsd.out.report import MARK as REPORT_MARK
from sga_kohya.hsd.out.report import REPORT, written_pages
from sga_kohya.hsd.settings.config_file import CONFIG_TOML
from sga_kohya.hsd.settings.config_file import HEADER as CONFIG_HEADER
from sga_kohya.kit.files import PART, sha256, write_whole
from sga_kohya.kit.pictures import is_clip, is_picture
from sga_kohya.kit.sealed import set_edited_aside
from sga_kohya.words import RAW_MUSUBI_TOML, RAW_TOML

MARKED = 4096
"""Bytes at a file's beginning that hold the mark of whoever wrote it."""


@dataclass(frozen=True)
class Swept:
    """What a finished run did to files of earlier ones that it does not make any more.

    removed: how many. left: those that stay because they were changed since. aside: settings that were edited by hand
    and lie under another name now.
    """

    removed: int
    left: list[str]
    aside: list[Path]


class OutputFolder:
    """OUT with its level folders. What no run here has written, or was changed since, is left as it is.

    Raises SgaError when a file of other origin is in the way.
    """

    def __init__(self, path: Path, level_folders: Sequence[str], journal: str = JOURNAL, run: str = "") -> None:
        """path: absolute; created when missing. level_folders: names of the folders that slices and masks go to.

        journal, run: as of Ledger.
        """
        self.path = path
        datasets = (*(export.file for export in EXPORTS.values()), RAW_TOML, RAW_MUSUBI_TOML)
        own_files = {**dict.fromkeys(datasets, HEADER), CONFIG_TOML: CONFIG_HEADER, REPORT: REPORT_MARK}
        for name, marker in own_files.items():
            _refuse_another_s(path / name, marker)
        for page in written_pages(path):
            _refuse_another_s(page, REPORT_MARK)
        path.mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(path, journal, run)
        self._folders = sorted({*level_folders, STRIPS, *self.ledger.folders})
        for name in self._folders:
            (path / name).mkdir(exist_ok=True)
        present = (f"{name}/{entry.name}" for name in self._folders for entry in os.scandir(path / name))
        others = sorted(file for file in present if not self.ledger.knows(file))
        self._parts = [file for file in others if file.endswith(PART) and self.ledger.knows(file.removesuffix(PART))]
        others = [file for file in others if file not in self._parts]
        self._caches = _caches_by_stem(others, self.ledger.knows)
        caches = {cache for group in self._caches.values() for cache in group}
        others = [file for file in others if file not in caches]
        self.taken = {Path(file).stem for file in others}
        """Stems of files that no run here has made."""
        self.foreign = [file for file in others if not file.startswith((f"{STRIPS}/", MASKS))]
        """Those files in the level folders."""
        self._other_caches = caches_by_stem(path)
        for picture in filter(is_picture, map(Path, self.foreign)):
            for known in (self._caches, self._other_caches):
                known.pop(picture.with_suffix("").as_posix(), None)

    def remove_parts(self) -> None:
        """What a kill has left of files of ours that were being written; not while another process writes some."""
        for file in self._parts:
            (self.path / file).unlink(missing_ok=True)

    def edited(self, file: str, *written: str | None) -> bool:
        """Whether an earlier run's file is not what was written. written: digests that are no edit either, such as of
        what this run writes there. An empty file is nobody's work.
        """
        if not self.ledger.knows(file):
            return False
        path = self.path / file
        if not path.is_file() or not path.stat().st_size:
            return False
        return sha256(path) not in {*self.ledger.digests(file), *written}

    def as_written(self, file: str) -> str:
        """The digest that an earlier run wrote a file with: the last one where there are several, "" where none is
        recorded."""
        return ["", *self.ledger.digests(file)][-1]

    def holds(self, row: Row) -> bool:
        """Whether the files of a kept slice are still there; the image is told by its size alone."""
        if row.file is None:
            return True
        files = [caption_file(row.file), strip_file(str(row.group), row.moving), view_file(row.root, row.moving)]
        files += [mask_file(row.file)] if row.mask_sha256 else []
        if not all((self.path / file).is_file() for file in (row.file, *files)):
            return False
        return not self.resized(row) or self.edited(row.file)

    def resized(self, row: Row) -> bool:
        """Whether the file of a kept slice has another length than the one written."""
        return row.file is not None and (self.path / row.file).stat().st_size != row.bytes

    def write_slice(self, slice_file: str, contents: Mapping[str, bytes], saw: str = "") -> dict[str, str]:
        """Writes what changed of a slice: contents of its image, its mask and its caption, or of some of them, by file.

        What has not changed stays untouched, and so do the trainers' caches where nothing has. What the user has edited
        stays as it is. saw: digest of the caption that the user has since replaced in the review. Returns the contents'
        digests.
        """
        # Before the files: a kill in between must not leave a new file with an old cache.
        return self._write(contents, saw, lambda: self._purge_caches(slice_file))

    def write_pictures(self, contents: Mapping[str, bytes]) -> dict[str, str]:
        """The report's, by file; as `write_slice`."""
        return self._write(contents)

    def _write(
        self, contents: Mapping[str, bytes], saw: str = "", before: Callable[[], None] = lambda: None
    ) -> dict[str, str]:
        """Those of the files that do not hold what they should, and that nobody has edited. Each is hashed once."""
        known = {name: digest(data) for name, data in contents.items()}
        changed = [
            name
            for name, data in contents.items()
            if not _holds(self.path / name, data) and not self.edited(name, known[name], saw)
        ]
        if changed:
            self.ledger.announce({name: known[name] for name in changed})
            before()
        for name in changed:
            write_whole(self.path / name, contents[name])
        return known

    def done(self, rows: Sequence[Row], new: bool) -> None:
        """All files of a photo's rows are there. new: they were not taken over from an earlier run."""
        self.ledger.done(rows, new)

    def made_before(self, source: str) -> list[Row]:
        """The rows of a photo that cannot be opened now: a drive that is away is no reason to delete its slices.

        [] where there are no slices of it.
        """
        rows = self.ledger.rows(source)
        return rows if any(row.file for row in rows) else []

    def finish(self, datasets: Mapping[str, str | None], settings: str) -> Swept:
        """Removes what earlier runs made and this one did not; writes what trainers read, settings and manifest.

        datasets: text by file name, None where there is nothing to train on.
        """
        stale = sorted(file for file in self.ledger.stale() if (self.path / file).is_file())
        edited = {file for file in stale if self.edited(file)}
        # A slice that stays keeps its caption and its mask, without which it would be trained on other words, or whole.
        slices = [file for file in edited if is_picture(Path(file)) or is_clip(Path(file))]
        left = edited | ({beside(file) for file in slices for beside in (caption_file, mask_file)} & set(stale))
        for file in stale:
            if file not in left:
                self._purge_caches(file)
                (self.path / file).unlink()
        for name in self._folders:
            with suppress(OSError):  # not empty
                (self.path / name).rmdir()
        remove_empty_caches(self.path, self._folders)
        aside = [self._write_sealed(name, text) for name, text in {**datasets, CONFIG_TOML: settings}.items()]
        self.ledger.finish()
        return Swept(len(stale) - len(left), sorted(left), [place for place in aside if place])

    def abandon(self) -> None:
        """Leaves everything for the next run to go on from."""
        self.ledger.abandon()

    def _write_sealed(self, name: str, text: str | None) -> Path | None:
        """Returns where the one before now lies, if someone has edited it."""
        aside = set_edited_aside(self.path / name)
        if text is None:
            (self.path / name).unlink(missing_ok=True)
        else:
            write_whole(self.path / name, text)
        return aside

    def _purge_caches(self, file: str) -> None:
        stem = os.path.splitext(file)[0]
        for cache in (*self._caches.get(stem, ()), *self._other_caches.get(stem, ())):
            (self.path / cache).unlink(missing_ok=True)


def remove_recorded(folder: Path, prefix: str) -> None:
    """Deletes the files below a prefix that the manifest in a folder records, where they are as they were written."""
    for file, known in recorded_files(folder).items():
        if file.startswith(prefix) and (folder / file).is_file() and sha256(folder / file) == known:
            (folder / file).unlink()


def _refuse_another_s(path: Path, mark: str) -> None:
    if path.exists() and mark.encode() not in _beginning(path):
        raise SgaError(f"{path} was not written by sga_kohya.hsd: choose another OUT or move it away")


def _beginning(path: Path) -> bytes:
    """What a mark of ours stands in; a report grows to megabytes behind it."""
    with path.open("rb") as file:
        return file.read(MARKED)


def caption_bytes(caption: str) -> bytes:
    """A caption file."""
    return f"{caption}\n".encode()


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data


def _caches_by_stem(files: Sequence[str], known: Callable[[str], bool]) -> dict[str, list[str]]:
    """FOLDER/STEM to its .npz files: STEM.npz or STEM_*.npz, of the longest such stem (a_b_flux.npz is not a's).

    files: that no run here has made. known: whether one has made a file.
    """
    stems = {os.path.splitext(file)[0] for file in files if not file.endswith(".npz")}
    caches = defaultdict(list)
    for file in files:
        if file.endswith(".npz"):
            stem = file.removesuffix(".npz")
            while not (stem in stems or known(caption_file(f"{stem}."))) and "_" in os.path.basename(stem):
                stem = stem.rpartition("_")[0]
            caches[stem].append(file)
    return dict(caches)
