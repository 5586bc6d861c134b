"""Append-only files of JSON lines. When `append` returns, the row is on the disk, whole; else none of it is."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Journal:
    """Opens the file, or makes it, and ends a line that a kill cut short. Not for several threads or processes.

    at_once: each row reaches the disk itself before `append` returns, and so survives a power cut.
    """

    def __init__(self, path: Path, at_once: bool = True) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        binary = getattr(os, "O_BINARY", 0)  # Windows would write \r\n
        self._at_once = at_once
        self.path, self._file = path, os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | binary, 0o600)
        if self._cut_short():
            self._write(b"\n")

    def append(self, row: Mapping[str, Any]) -> None:
        """Raises OSError when the disk does not take it, such as a full one; the file is then as it was before."""
        self._write(json.dumps(row).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)

    def _write(self, line: bytes) -> None:
        before = os.lseek(self._file, 0, os.SEEK_END)
        try:
            left = memoryview(line)
            while left:  # a disk that fills up takes a part without an error, and refuses only the next one
                left = left[os.write(self._file, left) :]
            if self._at_once:
                os.fsync(self._file)
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, before)
            raise

    def _cut_short(self) -> bool:
        size = os.lseek(self._file, 0, os.SEEK_END)
        if not size:
            return False
        os.lseek(self._file, size - 1, os.SEEK_SET)
        return os.read(self._file, 1) != b"\n"


def read_rows(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The rows of a journal, none when it is missing, and how many lines were no rows, such as one cut by a kill."""
    if not path.is_file():
        return [], 0
    rows, torn = [], 0
    for line in path.read_bytes().split(b"\n"):
        try:
            row = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows += [row] if row else []
        else:
            torn += 1
    return rows, torn
