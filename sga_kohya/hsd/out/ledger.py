"""What earlier runs made in OUT: their manifest, and the journals of a run that was cut short.

Memory holds where each photo's rows lie in those files, and where each file is told of, neither rows nor names.
"""

import json
import shutil
import tempfile
import threading
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sga_kohya.hsd.out.files import files_of, is_plain
from sga_kohya.hsd.out.index import Index
from sga_kohya.hsd.out.lines import Block, is_row, json_lines, read_manifest
from sga_kohya.hsd.out.manifest import MANIFEST, Row, row_of
from sga_kohya.kit.files import whole_file

JOURNAL = "sga_manifest.partial.jsonl"
"""A line per slice before its files are written, {file: digest}, and one per finished photo, [row, …]."""

SHARES = ".sga_processes"
"""Folder in OUT of a run of several processes. Each has a journal here, which also tells what of it is of which run:
{"run": its name} before the rest, and {"source": photo, "new": made by it, "edited": [file, …]} behind each photo."""


class Taken(NamedTuple):
    """What a process of this run says of a photo that it has finished. new: not taken over from an earlier run.

    edited: its files that the user has edited."""

    new: bool
    edited: Sequence[str]


class Ledger:
    """Remembers earlier runs, journals this one and writes its manifest.

    `announce` is for any thread, the rest for one.
    """

    def __init__(self, out: Path, journal: str = JOURNAL, run: str = "") -> None:
        """journal: this process's own, below OUT. run: the name of a run of several processes, "" for one alone.

        Raises SgaError, before anything is written, for a manifest that is not of this tool.
        """
        self.path, self._run = out, run
        # While processes share the work, what the others write just now is none of this one's.
        shares = sorted((out / SHARES).glob("*.jsonl")) if journal == JOURNAL else ()
        self._paths = [out / MANIFEST, out / JOURNAL, *shares]
        # Of each block: which of the paths, offset, length.
        self._blocks = array("B"), array("Q"), array("I")
        self._files, self._photos, self._taken = Index(), Index(), Index()
        self._edited: dict[str, list[str]] = {}
        self.folders: set[str] = set()
        """Of all files that earlier runs have announced."""
        for block, rows in read_manifest(out / MANIFEST):
            self._remember(block, rows)
        for path in self._paths[1:]:
            self._read_journal(path)
        for index in (self._files, self._photos, self._taken):
            index.settle()
        # backslashreplace: a file name that is not UTF-8 becomes JSON's own escape.
        self._journal = (out / journal).open("a", encoding="utf-8", errors="backslashreplace")
        self._journal.write("\n")  # ends a line that a kill has cut short
        self._lock = threading.Lock()
        if run:
            self._log({"run": run})
        self._new = tempfile.TemporaryFile(dir=out)  # noqa: SIM115  closed by finish or abandon
        self._places: dict[str, tuple[int, int]] = {}
        """Offset and length of each photo's rows in it."""

    def rows(self, source: str, inputs: str | None = None) -> list[Row]:
        """What an earlier run made of a photo, [] for nothing. inputs: from these alone, None for any."""
        numbers = self._photos.of(source)
        try:
            found = [row_of(row) for row in self._read(numbers[-1])] if numbers else []
        except TypeError:  # of a version with other fields
            return []
        mine = all(row.source == source and inputs in (None, row.inputs) for row in found)
        return found if mine else []

    def taken(self, source: str) -> Taken | None:
        """Of a photo that a process of this run has finished, whose `rows` these are; None for any other."""
        said = self._taken.of(source)
        return Taken(bool(said[-1]), self._edited.get(source, ())) if said else None

    def sources_below(self, folder: str) -> list[str]:
        """The photos below a folder of PHOTOS that earlier runs have rows of."""
        sources = {self._read(number)[0]["source"] for number in set(self._photos.numbers())}
        return sorted(source for source in sources if source.startswith(f"{folder}/"))

    def knows(self, file: str) -> bool:
        """Whether an earlier run has announced a file."""
        return file in self._files

    def digests(self, file: str) -> list[str]:
        """Those that a file may have as earlier runs wrote it, the last one behind; [] where none is recorded."""
        found: list[str] = []
        for number in self._files.of(file):
            known = _files_in(self._read(number)).get(file)
            if known and known not in found[-1:]:
                found.append(known)
        return found

    def stale(self) -> Iterator[str]:
        """The files that earlier runs have announced and of which no photo of this run is done."""
        for number in self._files.unmarked():
            for file in _files_in(self._read(number)):
                if self._files.mark(file):
                    yield file

    def announce(self, files: Mapping[str, str]) -> None:
        """To be called before files are written, with their digests: whoever comes after a kill knows them."""
        self._log(dict(files))

    def done(self, rows: Sequence[Row], journal: bool) -> None:
        """The files of these rows, of one photo, are complete. journal: they are new."""
        for file in files_of([row.__dict__ for row in rows]):
            self._files.mark(file)
        lines = [row.to_json() for row in rows]
        if journal:
            self._write(f"[{', '.join(lines)}]")
        data = "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace")
        self._places[rows[0].source] = self._new.tell(), len(data)
        self._new.write(data)

    def tell(self, source: str, taken: Taken) -> None:
        """For the process that merges: this photo is done."""
        self._log({"source": source, **taken._asdict()})

    def finish(self) -> None:
        """The manifest becomes this run's, in the order of the sources, whatever the order of the work."""
        self._journal.close()
        with whole_file(self.path / MANIFEST) as part, part.open("wb") as file:
            for _, (offset, length) in sorted(self._places.items()):
                self._new.seek(offset)
                file.write(self._new.read(length))
        self._new.close()
        for path in self._paths[1:]:
            path.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Leaves manifest and journal for the next run."""
        self._journal.close()
        self._new.close()

    def _log(self, entry: object) -> None:
        self._write(json.dumps(entry, ensure_ascii=False))

    def _write(self, line: str) -> None:
        with self._lock:
            self._journal.write(f"{line}\n")
            self._journal.flush()

    def _read_journal(self, path: Path) -> None:
        """A line cut short by a kill is passed over."""
        ours = False
        for offset, length, entry in json_lines(path):
            if isinstance(entry, list) and entry and all(map(is_row, entry)):
                self._remember(Block(path, offset, length), entry)
            elif isinstance(entry, dict) and "run" in entry:
                ours = bool(self._run) and entry["run"] == self._run
            elif isinstance(entry, dict) and "source" in entry:
                if ours:
                    self._taken.add(entry["source"], int(entry["new"]))
                    if entry["edited"]:
                        self._edited[entry["source"]] = entry["edited"]
            elif isinstance(entry, dict):
                self._remember(Block(path, offset, length), entry)

    def _remember(self, block: Block, entry: list | dict) -> None:
        number = len(self._blocks[0])
        values = self._paths.index(block.path), block.offset, block.length
        for column, value in zip(self._blocks, values, strict=True):
            column.append(value)
        for file in _files_in(entry):
            self._files.add(file, number)
            self.folders.add(file.split("/")[0])
        if isinstance(entry, list):
            self._photos.add(entry[0]["source"], number)

    def _read(self, number: int) -> Any:
        """The rows, or the announcement, of a block."""
        path, offset, length = (column[number] for column in self._blocks)
        with self._paths[path].open("rb") as file:
            file.seek(offset)
            data = file.read(length).decode(errors="replace")
        return [json.loads(line) for line in data.split("\n") if line] if path == 0 else json.loads(data)


def collect(out: Path) -> None:
    """Before a run: what the processes of one that was cut short have in journals of their own goes to the journal."""
    for share in sorted((out / SHARES).glob("*.jsonl")):
        with share.open("rb") as part, (out / JOURNAL).open("ab") as journal:
            journal.write(b"\n")
            shutil.copyfileobj(part, journal)
        share.unlink()


def _files_in(entry: list | dict) -> dict[str, str]:
    """What the rows of a photo, or an announcement, tell of files: their digests."""
    if isinstance(entry, list):
        return files_of(entry)
    return {file: known for file, known in entry.items() if is_plain(file) and isinstance(known, str)}
