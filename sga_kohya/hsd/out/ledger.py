"""What earlier runs made in OUT: their manifest, and the journal of a run that was cut short.

Memory holds where each photo's rows lie in those files, not the rows.
"""

import hashlib
import json
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from sga_kohya.errors import SgaError
from sga_kohya.hsd.out.manifest import MANIFEST, Row, caption_file, mask_file, row_of
from sga_kohya.kit.files import whole_file

JOURNAL = "sga_manifest.partial.jsonl"
"""A line per slice before its files are written, {file: digest}, and one per finished photo, [row, …]."""

STRIPS = "report"
"""Folder of the report's pictures, one of each group and one of each photo."""


class _Block(NamedTuple):
    """Where the rows of one photo lie."""

    path: Path
    offset: int
    length: int


class Ledger:
    """Remembers earlier runs, journals this one and writes its manifest.

    `announce` is for any thread, the rest for one.
    """

    def __init__(self, out: Path) -> None:
        """Raises SgaError, before anything is written, for a manifest that is not of this tool."""
        self.path = out
        self.written: dict[str, str] = {}
        """Every file that earlier runs have announced -> the digests that it may have as they wrote it, with spaces."""
        self._blocks: dict[str, _Block] = {}
        for block, entry in chain(_read_manifest(out / MANIFEST), _read_journal(out / JOURNAL)):
            for file, known in (entry if isinstance(entry, dict) else files_of(entry)).items():
                before = self.written.get(file)
                self.written[file] = known if before in (None, "", known) else f"{before} {known}"
            if isinstance(entry, list):
                self._blocks[entry[0]["source"]] = block
        # backslashreplace: a file name that is not UTF-8 becomes JSON's own escape.
        self._journal = (out / JOURNAL).open("a", encoding="utf-8", errors="backslashreplace")
        self._journal.write("\n")  # ends a line that a kill has cut short
        self._lock = threading.Lock()
        self._new = tempfile.TemporaryFile(dir=out)  # noqa: SIM115  closed by finish or abandon
        self._places: dict[str, tuple[int, int]] = {}
        """Offset and length of each photo's rows in it."""

    def rows(self, source: str, inputs: str | None = None) -> list[Row]:
        """What an earlier run made of a photo, [] for nothing. inputs: from these alone, None for any."""
        block = self._blocks.get(source)
        if block is None:
            return []
        with block.path.open("rb") as file:
            file.seek(block.offset)
            data = file.read(block.length).decode(errors="replace")
        rows = json.loads(data) if data.startswith("[") else [json.loads(line) for line in data.split("\n") if line]
        try:
            found = [row_of(row) for row in rows]
        except TypeError:  # of a version with other fields
            return []
        return found if inputs is None or all(row.inputs == inputs for row in found) else []

    def sources_below(self, folder: str) -> list[str]:
        """The photos below a folder of PHOTOS that earlier runs have rows of."""
        return sorted(source for source in self._blocks if source.startswith(f"{folder}/"))

    def announce(self, files: Mapping[str, str]) -> None:
        """To be called before files are written, with their digests: whoever comes after a kill knows them."""
        self._log(dict(files))

    def done(self, rows: Sequence[Row], journal: bool) -> None:
        """The files of these rows, of one photo, are complete. journal: they are new."""
        if journal:
            self._log([row.__dict__ for row in rows])
        data = "".join(row.to_json() + "\n" for row in rows).encode(errors="backslashreplace")
        self._places[rows[0].source] = self._new.tell(), len(data)
        self._new.write(data)

    def finish(self) -> None:
        """The manifest becomes this run's, in the order of the sources, whatever the order of the work."""
        self._journal.close()
        with whole_file(self.path / MANIFEST) as part, part.open("wb") as file:
            for _, (offset, length) in sorted(self._places.items()):
                self._new.seek(offset)
                file.write(self._new.read(length))
        self._new.close()
        (self.path / JOURNAL).unlink()

    def abandon(self) -> None:
        """Leaves manifest and journal for the next run."""
        self._journal.close()
        self._new.close()

    def _log(self, entry: object) -> None:
        with self._lock:
            self._journal.write(json.dumps(entry, ensure_ascii=False) + "\n")
            self._journal.flush()


def read_rows(out: Path) -> Iterator[Row]:
    """The manifest of a finished run, a row at a time."""
    with (out / MANIFEST).open(encoding="utf-8") as lines:
        for line in lines:
            yield row_of(json.loads(line))


def files_of(rows: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """The files that belong to rows -> the digest that each had as it was written, "" where none is recorded.

    Only names of the form FOLDER/FILE count: the result decides what a later run may delete.
    """
    files = {}
    for row in rows:
        file = row.get("file")
        if isinstance(file, str) and is_plain(file):
            files[file] = str(row.get("sha256") or "")
            files[caption_file(file)] = str(row.get("caption_sha256") or "")
            if row.get("mask_sha256"):
                files[mask_file(file)] = str(row["mask_sha256"])
            pictures = {
                "strip_sha256": strip_file(str(row.get("group")), "frames" in row),
                "view_sha256": view_file(str(row.get("root")), "frames" in row),
            }
            files |= {name: str(row.get(known) or "") for known, name in pictures.items() if is_plain(name)}
    return files


def recorded_files(out: Path) -> dict[str, str]:
    """The files that the manifest in `out` names -> their digests. Raises SgaError for one of another hand."""
    return {file: known for _, rows in _read_manifest(out / MANIFEST) for file, known in files_of(rows).items()}


def strip_file(group: str, moving: bool = False) -> str:
    """The picture of a group in the report. moving: of a clip."""
    return f"{STRIPS}/{group}.{'webp' if moving else 'jpg'}"


def view_file(root: str, moving: bool = False) -> str:
    """The picture of a photo or a clip in the report; no group has such a name, as no root holds a +."""
    return f"{STRIPS}/{root}+photo.{'webp' if moving else 'jpg'}"


def digest(data: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def is_plain(file: str) -> bool:
    """Whether it is FOLDER/FILE, and so lies below OUT wherever it comes from."""
    parts = PurePosixPath(file).parts
    return len(parts) == 2 and ".." not in parts and "/" not in parts


def _read_manifest(path: Path) -> Iterator[tuple[_Block, list]]:
    """The rows of each photo, which stand together. Raises SgaError for a manifest that another hand has written."""
    rows: list[dict[str, Any]] = []
    start, end = 0, 0
    for number, (offset, length, row) in enumerate(_json_lines(path), start=1):
        if not _is_row(row):
            raise SgaError(
                f"{path}, line {number}: not a row of sga_kohya.hsd (no source and inputs), so the files it "
                "names may be yours: choose another OUT or move the manifest away"
            )
        if rows and (row["source"] != rows[0]["source"] or offset != end):
            yield _Block(path, start, end - start), rows
            rows = []
        if not rows:
            start = offset
        rows.append(row)
        end = offset + length
    if rows:
        yield _Block(path, start, end - start), rows


def _read_journal(path: Path) -> Iterator[tuple[_Block, list | dict]]:
    """Announcements (dict) and the rows of finished photos (list). A line cut short by a kill is passed over."""
    for offset, length, entry in _json_lines(path):
        if isinstance(entry, dict):
            files = {file: text for file, text in entry.items() if is_plain(file) and isinstance(text, str)}
            yield _Block(path, offset, length), files
        elif isinstance(entry, list) and entry and all(map(_is_row, entry)):
            yield _Block(path, offset, length), entry


def _is_row(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("source"), str) and "inputs" in value


def _json_lines(path: Path) -> Iterator[tuple[int, int, Any]]:
    """(offset, length, value) of each line that is not empty; None for what is no JSON."""
    if not path.is_file():
        return
    offset = 0
    with path.open("rb") as lines:
        for line in lines:
            value = None
            with suppress(ValueError, RecursionError):
                value = json.loads(line.decode(errors="replace"))
            if line.strip():
                yield offset, len(line), value
            offset += len(line)
