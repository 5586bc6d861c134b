"""What earlier runs made in OUT: their manifest, and the journal of a run that was cut short.

Memory holds where each photo's rows lie in those files, not the rows.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from sga_kohya.hsd.out.manifest import MANIFEST, Row, caption_file

JOURNAL = "sga_manifest.partial.jsonl"
"""A line per photo before its files are written, {file: digest of its text, "" for images}, and one after, [row, …]."""

STRIPS = "report"
"""Folder of the report's pictures, one per group."""


class _Block(NamedTuple):
    """Where the rows of one photo lie."""

    path: Path
    offset: int
    length: int


class Ledger:
    """Remembers earlier runs, journals this one and writes its manifest, photo by photo. For one thread."""

    def __init__(self, out: Path) -> None:
        self.path = out
        self.written: dict[str, str] = {}
        """Every file that earlier runs have announced -> digests, separated by spaces, of the texts it may have."""
        self._blocks: dict[str, _Block] = {}
        for block, entry in (*_read_manifest(out / MANIFEST), *_read_journal(out / JOURNAL)):
            if isinstance(entry, dict):
                self._remember(entry)
            else:
                self._remember(files_of(entry))
                if isinstance(source := entry[0].get("source"), str):
                    self._blocks[source] = block
        # backslashreplace: a file name that is not UTF-8 becomes JSON's own escape.
        self._journal = (out / JOURNAL).open("a", encoding="utf-8", errors="backslashreplace")
        self._journal.write("\n")  # ends a line that a kill has cut short
        self._new = (out / f"{MANIFEST}.tmp").open("w", encoding="utf-8", errors="backslashreplace")

    def rows(self, source: str, inputs: str) -> list[Row]:
        """What an earlier run made of a photo from the same inputs, [] for nothing."""
        block = self._blocks.get(source)
        if block is None:
            return []
        with block.path.open("rb") as file:
            file.seek(block.offset)
            data = file.read(block.length).decode(errors="replace")
        rows = json.loads(data) if data.startswith("[") else [json.loads(line) for line in data.split("\n") if line]
        return [Row(**row) for row in rows] if all(row.get("inputs") == inputs for row in rows) else []

    def announce(self, rows: Sequence[Row]) -> None:
        """To be called before the files of these rows are written: whoever comes after a kill knows them."""
        files = files_of([row.__dict__ for row in rows])
        if files:
            self._log(files)

    def done(self, rows: Sequence[Row], journal: bool) -> None:
        """The files of these rows are complete; the next rows of the manifest are these. journal: they are new."""
        if journal:
            self._log([row.__dict__ for row in rows])
        self._new.writelines(row.to_json() + "\n" for row in rows)

    def finish(self) -> None:
        """The manifest becomes this run's."""
        self._journal.close()
        self._new.close()
        os.replace(self._new.name, self.path / MANIFEST)
        (self.path / JOURNAL).unlink()

    def abandon(self) -> None:
        """Leaves manifest and journal for the next run."""
        self._journal.close()
        self._new.close()
        os.unlink(self._new.name)

    def _log(self, entry: object) -> None:
        self._journal.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._journal.flush()

    def _remember(self, files: Mapping[str, str]) -> None:
        for file, digest in files.items():
            known = self.written.get(file)
            self.written[file] = digest if known in (None, "", digest) else f"{known} {digest}"


def read_rows(out: Path) -> Iterator[Row]:
    """The manifest of a finished run, a row at a time."""
    with (out / MANIFEST).open(encoding="utf-8") as lines:
        for line in lines:
            yield Row(**json.loads(line))


def files_of(rows: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """The files that belong to rows -> digest of a caption's text, "" for images.

    Only names of the form FOLDER/FILE count: the result decides what a later run may delete.
    """
    files = {}
    for row in rows:
        file = row.get("file")
        if isinstance(file, str) and _is_plain(file):
            files[file] = ""
            files[caption_file(file)] = str(row.get("caption_sha256") or "")
            strip = strip_file(str(row.get("group")))
            if _is_plain(strip):
                files[strip] = ""
    return files


def strip_file(group: str) -> str:
    """The picture of a group in the report."""
    return f"{STRIPS}/{group}.jpg"


def digest(data: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _is_plain(file: str) -> bool:
    parts = PurePosixPath(file).parts
    return len(parts) == 2 and ".." not in parts and "/" not in parts


def _read_manifest(path: Path) -> Iterator[tuple[_Block, list]]:
    """The rows of each photo, which stand together."""
    rows, start, end = [], 0, 0
    for offset, length, row in _json_lines(path):
        if not isinstance(row, dict):
            continue
        if rows and (row.get("source") != rows[0].get("source") or offset != end):
            yield _Block(path, start, end - start), rows
            rows = []
        if not rows:
            start = offset
        rows.append(row)
        end = offset + length
    if rows:
        yield _Block(path, start, end - start), rows


def _read_journal(path: Path) -> Iterator[tuple[_Block, list | dict]]:
    """Announcements (dict) and the rows of finished photos (list)."""
    for offset, length, entry in _json_lines(path):
        if isinstance(entry, dict):
            files = {file: text for file, text in entry.items() if _is_plain(file) and isinstance(text, str)}
            yield _Block(path, offset, length), files
        elif isinstance(entry, list) and entry and all(isinstance(row, dict) for row in entry):
            yield _Block(path, offset, length), entry


def _json_lines(path: Path) -> Iterator[tuple[int, int, object]]:
    """(offset, length, value) of each line; one cut short by a kill is passed over."""
    if not path.is_file():
        return
    offset = 0
    with path.open("rb") as lines:
        for line in lines:
            with suppress(json.JSONDecodeError):
                yield offset, len(line), json.loads(line.decode(errors="replace"))
            offset += len(line)
