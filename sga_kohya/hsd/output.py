"""The output folder: writes atomically, keeps account of its own files, and leaves everyone else's alone."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from sga_kohya.errors import SgaError
from sga_kohya.hsd.dataset_toml import DATASET_TOML, HEADER
from sga_kohya.hsd.manifest import MANIFEST, Row, caption_file, read_files

JOURNAL = "sga_manifest.partial.jsonl"
"""Rows of an unfinished run, each written before its files: a run after a kill still knows what is its own."""


class OutputFolder:
    """OUT with its level folders. Raises SgaError when a dataset.toml of other origin is in the way."""

    def __init__(self, path: Path, level_folders: Sequence[str]) -> None:
        """path: absolute; created when missing. level_folders: names of the folders that slices go to."""
        self.path = path
        toml = path / DATASET_TOML
        if toml.exists() and HEADER not in toml.read_text(encoding="utf-8", errors="replace"):
            raise SgaError(f"{toml} was not written by sga_kohya.hsd: choose another OUT or move it away")
        self._owned = read_files(path / MANIFEST) | read_files(path / JOURNAL)
        self._folders = sorted({*level_folders, *(file.split("/")[0] for file in self._owned)})
        for name in self._folders:
            (path / name).mkdir(parents=True, exist_ok=True)
        for file in self._owned:
            (path / temporary_name(file)).unlink(missing_ok=True)  # left by a kill
        present = [f"{name}/{file.name}" for name in self._folders for file in sorted((path / name).iterdir())]
        self._caches = _caches_by_stem(present)
        caches = {cache for group in self._caches.values() for cache in group}
        self.foreign = [file for file in present if file not in self._owned and file not in caches]
        """Files in the level folders that no run here has made."""
        # backslashreplace: a file name that is not UTF-8 becomes JSON's own escape.
        self._journal = (path / JOURNAL).open("a", encoding="utf-8", errors="backslashreplace")
        self._journal.write("\n")  # ends a line that a kill has cut short

    def announce(self, rows: Iterable[Row]) -> None:
        """To be called before the files of these rows are written."""
        for row in rows:
            self._journal.write(row.to_json() + "\n")
        self._journal.flush()

    def write_slice(self, file: str, image: bytes, caption: str) -> None:
        """file: FOLDER/STEM.ext. Where neither changed, both stay untouched, and so do sd-scripts' caches of them."""
        contents = {file: image, caption_file(file): f"{caption}\n".encode()}
        changed = {name: data for name, data in contents.items() if not _holds(self.path / name, data)}
        if changed:
            # Before the files: a kill in between must not leave a new file with an old cache.
            self._purge_caches(file)
        for name, data in changed.items():
            write_atomically(self.path / name, data)

    def finish(self, rows: Sequence[Row], toml: str | None) -> None:
        """Removes what earlier runs made and this one did not, then writes the manifest and dataset.toml (if any)."""
        files = {row.file for row in rows if row.file}
        for stale in sorted(self._owned - files - {caption_file(file) for file in files}):
            self._purge_caches(stale)
            (self.path / stale).unlink(missing_ok=True)
        for name in self._folders:
            with suppress(OSError):  # not empty
                (self.path / name).rmdir()
        if toml is None:
            (self.path / DATASET_TOML).unlink(missing_ok=True)
        else:
            write_atomically(self.path / DATASET_TOML, toml.encode())
        lines = "".join(row.to_json() + "\n" for row in rows)
        write_atomically(self.path / MANIFEST, lines.encode(errors="backslashreplace"))
        self.close()
        (self.path / JOURNAL).unlink()

    def close(self) -> None:
        """Leaves the journal for the next run, unless `finish` came first."""
        self._journal.close()

    def _purge_caches(self, file: str) -> None:
        for cache in self._caches.get(os.path.splitext(file)[0], ()):
            (self.path / cache).unlink(missing_ok=True)


def temporary_name(file: str) -> str:
    """Where a file is written before it is moved into place; no trainer reads that extension."""
    return file + ".tmp"


def write_atomically(path: Path, data: bytes) -> None:
    """The file is either as before or complete."""
    temporary = Path(temporary_name(str(path)))
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
