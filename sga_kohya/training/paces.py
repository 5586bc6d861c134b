"""How long a run will take, before its first step: by what earlier runs on this machine have measured.

A run that ends leaves a row in a table of the user's own: the card, what was trained on it, and the seconds a picture.
The plan of a run of the same looks there. Nothing is reckoned from other cards or sizes, and nothing is shipped: where
there is no row, the plan says so.
"""

import argparse
import datetime
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.kit.files import write_whole
from sga_kohya.kit.text import duration, safe
from sga_kohya.kit.toml_file import listed_tables, read_toml, toml_string
from sga_kohya.training.dataset import RunDataset
from sga_kohya.training.memory import Load, Model
from sga_kohya.version import __version__

NO_TABLE = "none"
_WHERE = "SGA_PACE_TABLE"
_MOST_ROWS = 200
_TABLE = "pace"


@dataclass(frozen=True)
class Task:
    """What decides a pace. card: its name. trains: model, size and switches in words, which must be the same."""

    card: str
    trains: str


def task_of(model: Model, load: Load) -> Task:
    """model, load: as for the estimate of memory; see Levels.memory."""
    frames = f" x {load.frames} frames" if load.frames > 1 else ""
    switches = [
        f"{load.optimizer}",
        "checkpointing" if load.checkpointing else "no checkpointing",
        *([f"{load.swapped} blocks swapped"] if load.swapped else []),
        *(["text encoders"] if load.encoders else []),
    ]
    trains = (
        f"{model.weights:.2f} B parameters of {load.weight_bytes:g} bytes, {1000 * load.trained:.1f} M trained"
        f"{' in an adapter' * load.adapter}, batch {load.batch} of {load.side} x {load.side}{frames}, "
        f"{', '.join(switches)}"
    )
    return Task(card(), trains)


def card() -> str:
    """The name of the device that this process trains on."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def table_file() -> Path | None:
    """Where the rows are; SGA_PACE_TABLE names another file, or none."""
    named = os.environ.get(_WHERE)
    return None if named == NO_TABLE else Path(named or "~/.cache/sga_kohya/pace.toml").expanduser()


def record(task: Task, seconds_a_picture: float, pictures: int) -> str:
    """Put a row in the place of an older one of the same task. Returns a sentence: what was noted, or why not."""
    file = table_file()
    if file is None:
        return ""
    row = {
        "card": task.card,
        "trains": task.trains,
        "seconds_a_picture": seconds_a_picture,
        "pictures": pictures,
        "date": datetime.date.today().isoformat(),
        "versions": f"sga_kohya {__version__}, torch {torch.__version__}",
    }
    try:
        others = [other for other in _rows(file) if (other["card"], other["trains"]) != (task.card, task.trains)]
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, "\n".join(map(_text, [*others, row][-_MOST_ROWS:])))
    except (OSError, SgaError) as error:
        return f"the pace of this run was not noted: {error}"
    return f"{seconds_a_picture:.2g} s a picture; noted in {file}, for the next plan of the same on this machine"


def forecast(task: Task, pictures: float, config: SgaConfig) -> str:
    """How long so many pictures of this process will take, with its source; or that nobody knows yet."""
    file = table_file()
    try:
        rows = _rows(file) if file is not None else []
    except (OSError, SgaError) as error:
        return f"not known: {error}"
    row = next((row for row in rows if (row["card"], row["trains"]) == (task.card, task.trains)), None)
    if row is None:
        noted = f"when it ends, the pace is noted in {file}" if file is not None else f"{_WHERE} is {NO_TABLE}"
        return f"not known: no run of this model, size and settings has ended on {safe(task.card)}; {noted}"
    seconds = pictures * row["seconds_a_picture"]
    if config.stop_at_hours is not None:
        seconds = min(seconds, 3600 * config.stop_at_hours)
    return (
        f"about {duration(seconds)}: {row['seconds_a_picture']:.2g} s a picture, measured here on {safe(row['date'])}, "
        f"{safe(task.card)}, {safe(row['versions'])}; sampling, validation and saving come on top"
    )


def pictures_of(dataset: RunDataset, args: argparse.Namespace) -> float:
    """Pictures that each process of a run trains. args: the host's."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if getattr(args, "max_train_epochs", None):
        return dataset.planner.groups.slices * args.max_train_epochs / processes
    tuples = processes * int(getattr(args, "gradient_accumulation_steps", None) or 1)
    return args.max_train_steps * pictures_a_step(dataset, tuples) / processes


def pictures_a_step(dataset: RunDataset, tuples: int) -> float:
    """Of all processes, in the mean of an epoch. tuples: that an optimizer step takes."""
    return dataset.planner.groups.slices / max(-(-len(dataset) // tuples), 1)


def _rows(file: Path) -> list[dict[str, Any]]:
    """Raises SgaError with the remedy where the file is not such a table."""
    if not file.is_file():
        return []
    rows = listed_tables(read_toml(file), _TABLE, str(file))
    if not all(isinstance(row.get(key), kind) for row in rows for key, kind in _COLUMNS.items()):
        raise SgaError(f"{file} is not a table of measured paces: delete it, or set {_WHERE} to another file")
    return rows


_COLUMNS: Mapping[str, type] = {
    "card": str,
    "trains": str,
    "seconds_a_picture": float,
    "pictures": int,
    "date": str,
    "versions": str,
}


def _text(row: Mapping[str, Any]) -> str:
    lines = (f"{key} = {toml_string(value) if isinstance(value, str) else value}" for key, value in row.items())
    return "\n".join([f"[[{_TABLE}]]", *lines, ""])
