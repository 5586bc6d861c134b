"""The output folder: writes atomically, keeps account of its own files, and leaves everyone else's alone."""

import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sga_kohya.errors import SgaError
from sga_kohya.hsd.out.dataset_toml import DATASET_TOML, HEADER
from sga_kohya.hsd.out.ledger import STRIPS, Ledger, digest, files_of, strip_file
from sga_kohya.hsd.out.manifest import Row, caption_file
from sga_kohya.hsd.settings.config_file import CONFIG_TOML
from sga_kohya.hsd.settings.config_file import HEADER as CONFIG_HEADER


class OutputFolder:
    """OUT with its level folders. Raises SgaError when a TOML of other origin is in the way."""

    def __init__(self, path: Path, level_folders: Sequence[str]) -> None:
        """path: absolute; created when missing. level_folders: names of the folders that slices go to."""
        self.path = path
        for name, header in ((DATASET_TOML, HEADER), (CONFIG_TOML, CONFIG_HEADER)):
            toml = path / name
            if toml.exists() and header not in toml.read_text(encoding="utf-8", errors="replace"):
                raise SgaError(f"{toml} was not written by sga_kohya.hsd: choose another OUT or move it away")
        path.mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(path)
        owned = self.ledger.written
        self._stale = set(owned)
        self._folders = sorted({*level_folders, STRIPS, *(file.split("/")[0] for file in owned)})
        for name in self._folders:
            (path / name).mkdir(exist_ok=True)
        for file in owned:
            (path / temporary_name(file)).unlink(missing_ok=True)  # left by a kill
        present = [f"{name}/{entry.name}" for name in self._folders for entry in os.scandir(path / name)]
        self._caches = _caches_by_stem(present)
        caches = {cache for group in self._caches.values() for cache in group}
        self.foreign = sorted(
            file for file in present if file not in owned and file not in caches and not file.startswith(f"{STRIPS}/")
        )
        """Files in the level folders that no run here has made."""

    def edited(self, file: str, written: str | None = None) -> bool:
        """Whether an earlier run's caption is not what was written. written: digest of what this run writes there."""
        if file not in self.ledger.written:
            return False
        path = self.path / file
        return path.is_file() and digest(path.read_bytes()) not in {*self.ledger.written[file].split(), written}

    def holds(self, row: Row) -> bool:
        """Whether the files of a kept slice are still there; the image is told by its size alone."""
        if row.file is None:
            return True
        files = (caption_file(row.file), strip_file(str(row.group)))
        try:
            whole = (self.path / row.file).stat().st_size == row.bytes
        except FileNotFoundError:
            return False
        return whole and all((self.path / file).is_file() for file in files)

    def write_slice(self, row: Row, image: bytes, caption: str) -> Row:
        """Writes what changed and returns the row with what there is to say of the files.

        Where neither changed, both stay untouched, and so do sd-scripts' caches of them. A caption that the user has
        edited stays as it is.
        """
        assert row.file is not None
        contents = {row.file: image}
        if not self.edited(caption_file(row.file), row.caption_sha256):
            contents[caption_file(row.file)] = caption_bytes(caption)
        changed = {name: data for name, data in contents.items() if not _holds(self.path / name, data)}
        if changed:
            # Before the files: a kill in between must not leave a new file with an old cache.
            self._purge_caches(row.file)
        for name, data in changed.items():
            write_atomically(self.path / name, data)
        return replace(row, sha256=digest(image), bytes=len(image))

    def write_strip(self, group: str, image: bytes) -> None:
        """The report's picture of a group."""
        path = self.path / strip_file(group)
        if not _holds(path, image):
            write_atomically(path, image)

    def done(self, rows: Sequence[Row], new: bool) -> None:
        """All files of a photo's rows are there. new: they were not taken over from an earlier run."""
        self._stale.difference_update(files_of([row.__dict__ for row in rows]))
        self.ledger.done(rows, new)

    def finish(self, toml: str | None) -> list[str]:
        """Removes what earlier runs made and this one did not; writes dataset.toml (if any) and the manifest.

        Returns the captions that were left because the user had edited them.
        """
        left = []
        for stale in sorted(self._stale):
            self._purge_caches(stale)
            if stale.endswith(".txt") and self.edited(stale):
                left.append(stale)
            else:
                (self.path / stale).unlink(missing_ok=True)
        for name in self._folders:
            with suppress(OSError):  # not empty
                (self.path / name).rmdir()
        if toml is None:
            (self.path / DATASET_TOML).unlink(missing_ok=True)
        else:
            write_atomically(self.path / DATASET_TOML, toml.encode())
        self.ledger.finish()
        return left

    def abandon(self) -> None:
        """Leaves everything for the next run to go on from."""
        self.ledger.abandon()

    def _purge_caches(self, file: str) -> None:
        for cache in self._caches.get(os.path.splitext(file)[0], ()):
            (self.path / cache).unlink(missing_ok=True)


def caption_bytes(caption: str) -> bytes:
    """A caption file."""
    return f"{caption}\n".encode()


def temporary_name(file: str) -> str:
    """Where a file is written before it is moved into place; no trainer reads that extension."""
    return file + ".tmp"


def write_atomically(path: Path, data: bytes) -> None:
    """The file is either as before or complete."""
    temporary = Path(temporary_name(str(path)))
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data


def _caches_by_stem(files: Sequence[str]) -> dict[str, list[str]]:
    """FOLDER/STEM to its .npz files: STEM.npz or STEM_*.npz, of the longest such stem (a_b_flux.npz is not a's)."""
    stems = {os.path.splitext(file)[0] for file in files if not file.endswith(".npz")}
    caches = defaultdict(list)
    for file in files:
        if file.endswith(".npz"):
            stem = file.removesuffix(".npz")
            while stem not in stems and "_" in os.path.basename(stem):
                stem = stem.rpartition("_")[0]
            caches[stem].append(file)
    return dict(caches)
