"""The manifest and journals of OUT as they were written: rows and announcements, and where they lie."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from sga_kohya.errors import SgaError
from sga_kohya.hsd.out.files import files_of
from sga_kohya.hsd.out.manifest import MANIFEST, Row, row_of


class Block(NamedTuple):
    """Where the rows of one photo lie, or an announcement of files."""

    path: Path
    offset: int
    length: int


def read_rows(out: Path) -> Iterator[Row]:
    """The manifest of a finished run, a row at a time."""
    with (out / MANIFEST).open(encoding="utf-8") as lines:
        for line in lines:
            yield row_of(json.loads(line))


def recorded_files(out: Path) -> dict[str, str]:
    """The files that the manifest in `out` names -> their digests. Raises SgaError for one of another hand."""
    return {file: known for _, rows in read_manifest(out / MANIFEST) for file, known in files_of(rows).items()}


def read_manifest(path: Path) -> Iterator[tuple[Block, list]]:
    """The rows of each photo, which stand together. Raises SgaError for a manifest that another hand has written."""
    rows: list[dict[str, Any]] = []
    start, end = 0, 0
    for number, (offset, length, row) in enumerate(json_lines(path), start=1):
        if not is_row(row):
            raise SgaError(
                f"{path}, line {number}: not a row of sga_kohya.hsd (no source and inputs), so the files it "
                "names may be yours: choose another OUT or move the manifest away"
            )
        if rows and (row["source"] != rows[0]["source"] or offset != end):
            yield Block(path, start, end - start), rows
            rows = []
        if not rows:
            start = offset
        rows.append(row)
        end = offset + length
    if rows:
        yield Block(path, start, end - start), rows


def is_row(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("source"), str) and "inputs" in value


def json_lines(path: Path) -> Iterator[tuple[int, int, Any]]:
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
