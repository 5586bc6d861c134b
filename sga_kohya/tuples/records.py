"""Records of the interference probe: a file with a line for each probed step, and the figures that trackers show.

The file only grows. A run begins with a line that says from which step, so that a resumed or repeated run adds to it,
and `read_records` knows which lines it replaces.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sga_kohya.tuples.probe import DRAWS, WINDOW

_HEADER = (
    "Gram matrices of the granularities' gradients (Eq. 43-45 of arXiv:2603.10785), weights of Eq. 6 included, before "
    f"clipping. window: the last {WINDOW} probed steps summed; control: {DRAWS} random partitions of the same gradients"
)


def figures(record: dict[str, Any]) -> dict[str, float]:
    """What trackers show of a record, by name."""
    found = {f"interference/{name}": value for name, value in record.items() if isinstance(value, float)}
    found.pop("interference/sketch_error", None)
    for part, values in record["parts"].items():
        found |= {f"interference_{part}/{name}": v for name, v in values.items() if name.startswith("cosine/")}
    window = record["window"]
    found |= {f"interference_window/{name}": value for name, value in window.items() if isinstance(value, float)}
    found |= {f"interference_control/{name}": value["mean"] for name, value in window.get("control", {}).items()}
    return found


class Log:
    """The file, made when the first record comes. settings: of the run, for its first line."""

    def __init__(self, path: Path, settings: dict[str, str]):
        self.path, self.settings, self._begun = path, settings, False

    def append(self, record: dict[str, Any]) -> None:
        """Write a line, and let the disk have it."""
        lines, begin = [record], ""
        if not self._begun:
            lines.insert(0, {"run": self.settings, "from_step": record["step"], "what": _HEADER})
            self._begun = True
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_file() and not self.path.read_bytes().endswith(b"\n"):
                begin = "\n"  # a run was killed while writing
        with self.path.open("a", encoding="utf-8") as file:
            file.write(begin + "".join(json.dumps(_rounded(line)) + "\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records that count, in order of steps: a run that began at a step replaces what others wrote from there."""
    records: list[dict[str, Any]] = []
    for line in _lines(path):
        if "from_step" in line:
            records = [record for record in records if record["step"] < line["from_step"]]
        else:
            records.append(line)
    return records


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(text)
        except json.JSONDecodeError:
            continue  # torn by a kill


def _rounded(value: Any) -> Any:
    """Five significant digits, so that the file stays small."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
