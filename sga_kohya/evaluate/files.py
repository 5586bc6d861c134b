"""Files that are whole or not there: written under another name, then moved."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_whole(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    os.replace(partial, path)
