"""Pick the saved checkpoint nearest to a number of training hours, from what the saved files say of themselves.

Training through sga_kohya writes `ss_sga_train_hours` into every file. Without it, hours are the time between the start
and the end that kohya's metadata name, or the file's own time: wall time of one process, wrong after a resume.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from sga_kohya.errors import SgaError
from sga_kohya.kit.safetensors_file import read_header
from sga_kohya.words import TRAIN_HOURS as MEASURED


@dataclass(frozen=True)
class Checkpoint:
    """hours: of training when it was saved. source: where they were read."""

    file: Path
    hours: float
    source: str


def find_runs(folder: Path, output_name: str = "") -> list[Checkpoint]:
    """The checkpoints of one run, in order of their hours.

    output_name: needed where several runs share the folder. Raises SgaError when there is none, or which is unclear.
    """
    runs = all_runs(folder)
    if output_name:
        if output_name not in runs:
            raise SgaError(f"{folder} has no checkpoint of output_name {output_name!r}, only of {', '.join(runs)}")
        return runs[output_name]
    if len(runs) > 1:
        raise SgaError(f"{folder} holds several runs: write output_name, one of {', '.join(runs)}")
    return next(iter(runs.values()))


def all_runs(folder: Path) -> dict[str, list[Checkpoint]]:
    """{output_name: its checkpoints in order of their hours}. Raises SgaError when no file tells its hours."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise SgaError(f"{folder}: no .safetensors file; name the output_dir of a training")
    runs: dict[str, list[Checkpoint]] = {}
    for file in files:
        metadata = read_header(file)["__metadata__"]
        if (found := _hours(file, metadata)) is not None:
            runs.setdefault(metadata.get("ss_output_name") or _name(file), []).append(Checkpoint(file, *found))
    if not runs:
        raise SgaError(
            f"{folder}: no file tells how long it was trained: train through sga_kohya, which writes {MEASURED}, "
            "or without --no_metadata"
        )
    return {name: sorted(run, key=lambda checkpoint: checkpoint.hours) for name, run in runs.items()}


def pick(run: list[Checkpoint], hours: float, tolerance_minutes: float = 30.0) -> Checkpoint:
    """The checkpoint nearest to `hours`. Raises SgaError when it is further away than the tolerance."""
    nearest = min(run, key=lambda checkpoint: abs(checkpoint.hours - hours))
    minutes = abs(nearest.hours - hours) * 60
    # A second of rounding in the metadata is no reason to refuse 30 minutes.
    if minutes > tolerance_minutes + 1 / 60:
        raise SgaError(
            f"{nearest.file.name} at {nearest.hours:.2f} h is the nearest to {hours:.2f} h, but {minutes:.0f} minutes "
            f"away, more than {tolerance_minutes:g}: train with --sga_save_at_hours {hours:g}, or raise the tolerance"
        )
    return nearest


def _hours(file: Path, metadata: dict[str, str]) -> tuple[float, str] | None:
    """None where the file tells none, or none that can be: NaN, endless, before the start."""
    try:
        hours, source = _stated(file, metadata)
    except (KeyError, ValueError):
        return None
    return (hours, source) if math.isfinite(hours) and hours >= 0 else None


def _stated(file: Path, metadata: dict[str, str]) -> tuple[float, str]:
    if MEASURED in metadata:
        return float(metadata[MEASURED]), MEASURED
    started = float(metadata["ss_training_started_at"])
    finished = metadata.get("ss_training_finished_at")
    if finished not in (None, "None"):
        return (float(finished) - started) / 3600, "wall time of the run"
    return (file.stat().st_mtime - started) / 3600, "time of the file"


def _name(file: Path) -> str:
    """output_name of a file that does not say it: its name without -000010, -step00000100 or -14h."""
    stem, _, suffix = file.stem.rpartition("-")
    return stem if stem and (suffix.isdigit() or suffix.startswith("step") or suffix.endswith("h")) else file.stem
