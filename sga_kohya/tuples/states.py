"""Saved states as folders of files: is one whole, and which is the newest of its run? Answered without torch, at once.

sd-scripts names the states of a run NAME-state, NAME-000001-state (of an epoch) and NAME-step00000010-state.
"""

import json
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from sga_kohya.kit.safetensors_file import is_whole
from sga_kohya.tuples.cursor import FILE

_STATE = re.compile(r"(?P<run>.+?)(?:-step\d{8}|-\d{6})?-state")
_PARTS = {"the model": ("model", "pytorch_model"), "the optimizer": ("optimizer", "pytorch_model")}
"""How names begin, in a state of accelerate; DeepSpeed keeps both in pytorch_model."""


def standing(folder: Path) -> Path:
    """The folder, or the name under which a kill in the midst of replacing it has left it."""
    old = folder.with_name(f"{folder.name}.old")
    return old if not folder.exists() and old.is_dir() else folder


def problem(folder: Path) -> str | None:
    """Why a state cannot be resumed and which one can, in a sentence; None where it is whole. folder: as given."""
    found = damage(standing(folder))
    return None if found is None else f"{folder}: {found}; {instead_of(folder)}"


def damage(folder: Path) -> str | None:
    """What is missing or cut off, None where all files are there from first byte to last. Values are not looked at."""
    if not folder.is_dir():
        return "this is a file: name the folder of a state" if folder.exists() else "there is no such folder"
    names = [path.name for path in folder.iterdir()]
    for part, beginnings in _PARTS.items():
        if not any(name.startswith(beginnings) for name in names):
            return f"{part} is missing in it"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    broken = next((path for path in files if not _WHOLE.get(path.suffix, _anything)(path)), None)
    return None if broken is None else f"{broken.relative_to(folder)} in it is damaged"


def instead_of(folder: Path) -> str:
    """What to do where a state cannot be resumed."""
    newest = newest_whole(folder)
    if newest is None:
        where = folder.absolute().parent
        return f"there is no other whole state of that run in {where}: leave out resume to begin anew"
    return f"the newest whole state of that run is {newest}"


def newest_whole(folder: Path) -> Path | None:
    """Of the states beside this one that are of the same run: the whole one with most steps, then the youngest."""
    wanted = _run(folder.name)
    beside = (path for path in folder.parent.glob("*-state") if path != folder and wanted in ("", _run(path.name)))
    whole = [path for path in beside if damage(path) is None]
    return max(whole, key=lambda path: (_steps(path), path.stat().st_mtime), default=None)


def _run(name: str) -> str:
    match = _STATE.fullmatch(name)
    return match["run"] if match else ""


def _steps(folder: Path) -> int:
    try:
        return int(json.loads((folder / FILE).read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # saved without us


def _anything(path: Path) -> bool:
    return True


def _is_pickle(path: Path) -> bool:
    """torch's files are archives, whose table stands at the end; a plain pickle begins with its protocol."""
    with path.open("rb") as file:
        return file.read(1) == b"\x80" or zipfile.is_zipfile(path)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


_WHOLE: Mapping[str, Callable[[Path], bool]] = {
    ".safetensors": is_whole,
    **dict.fromkeys((".bin", ".pkl", ".pt"), _is_pickle),
    ".json": _is_json,
}
