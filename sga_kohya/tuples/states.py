"""Saved states as folders of files: is one whole, which is the newest of its run, and where does a run go on from one?

Whether a state is whole is answered without torch, at once.

sd-scripts names the states of a run NAME-state, NAME-000001-state (of an epoch) and NAME-step00000010-state.
"""

import contextlib
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sga_kohya.errors import SgaError
from sga_kohya.kit.cli import one_line
from sga_kohya.kit.files import part_of, replace_folder
from sga_kohya.kit.safetensors_file import is_whole
from sga_kohya.tuples import contents
from sga_kohya.tuples.cursor import FILE, Cursor
from sga_kohya.tuples.step import SubBatch

if TYPE_CHECKING:
    from accelerate import Accelerator

    from sga_kohya.tuples.loader import TupleDataset

_STATE = re.compile(r"(?P<run>.+?)(?:-step\d{8}|-\d{6})?-state")
_PARTS = {"the model": ("model", "pytorch_model"), "the optimizer": ("optimizer", "pytorch_model")}
"""How names begin, in a state of accelerate; DeepSpeed keeps both in pytorch_model."""


class Progress:
    """How far a run has come, and what its states know of that beside accelerate's.

    cursor: the place in the run. ends_epoch: whether the batch in hand is the last of its epoch. resumed: the cursor of
    a state that was loaded and whose epoch has not yet begun.
    """

    def __init__(self, accelerator: "Accelerator", first_epoch: int):
        self.cursor = Cursor()
        self.ends_epoch = False
        self.resumed: Cursor | None = None
        self._accelerator, self._first_epoch = accelerator, first_epoch
        self._dataset: TupleDataset | None = None
        self._steps: int | None = None

    def follow(self, dataset: "TupleDataset", steps: int | None) -> None:
        """What is trained on. steps: of this process in an epoch, None where the order of data is not ours."""
        self._dataset, self._steps = dataset, steps

    @property
    def seed(self) -> int:
        """The plan's, 0 where there is none."""
        return self._dataset.seed if self._dataset is not None else 0

    def begin_epoch(self, epoch: int | None) -> int | None:
        """Tuple steps of the epoch that were made before, None where all of it was.

        epoch: None where the order of data is the host's.
        """
        resumed = self.resumed
        if resumed is not None and epoch is not None and epoch < resumed.epoch:
            return None
        position = resumed.position if resumed is not None and epoch == resumed.epoch else 0
        if resumed is not None and resumed.position > position:
            self._say(f"the rest of epoch {resumed.epoch} is left out, because training goes on at {epoch}")
        self.resumed = None
        self.cursor.epoch, self.cursor.position = epoch or 0, position
        return position

    def made(self, sub_batch: SubBatch) -> None:
        """A tuple step is complete. sub_batch: its last."""
        self.cursor.position += 1
        self.cursor.groups += sub_batch.groups

    @contextlib.contextmanager
    def saving(self, target: Path, together: bool) -> Iterator[Path]:
        """A folder to save into, which becomes target when all is written. together: whether all processes write."""
        accelerator, part = self._accelerator, part_of(target)
        if accelerator.is_main_process:
            shutil.rmtree(part, ignore_errors=True)
        if together:
            accelerator.wait_for_everyone()
        yield part
        if together:
            accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            if self._dataset is not None:
                self._place(self._dataset).save(part)
                contents.save(self._dataset.contents(), part)
            replace_folder(part, target)

    def load(self, folder: Path) -> None:
        """Go on from a state. Where the plan is no longer the same, its epoch's data begin anew."""
        if self._dataset is None:
            return
        cursor = Cursor.load(folder)
        self._say_changes(folder, self._dataset)
        if cursor is None:
            self._say(f"{folder} was saved without sga_kohya: steps, data and hours are counted anew")
        elif self._steps is None:
            self.cursor.seconds, self.cursor.saved_hours = cursor.seconds, cursor.saved_hours
        else:
            self._resume(cursor, self._dataset, self._steps)

    def _say_changes(self, folder: Path, dataset: "TupleDataset") -> None:
        """Images and captions that are not what they were. The plan may be the same all the same."""
        before = contents.load(folder)
        changed = contents.changes(before, dataset.contents()) if before is not None else []
        if changed:
            self._say(f"the data have changed since {folder.name} was saved: {'; '.join(changed)}")

    def _resume(self, cursor: Cursor, dataset: "TupleDataset", steps: int) -> None:
        changed = cursor.changed(self._facts(dataset))
        if changed:
            # Epochs as they are counted now, or the training loop could run out of them.
            updates = -(-steps // self._accelerator.gradient_accumulation_steps)
            cursor.epoch, cursor.position = self._first_epoch + cursor.step // updates, 0
            self._say(f"the plan has changed ({'; '.join(changed)}), so epoch {cursor.epoch} begins anew")
        dataset.seed = cursor.seed
        self.cursor = self.resumed = cursor

    def _place(self, dataset: "TupleDataset") -> Cursor:
        """The cursor as it is saved: at an epoch's end it stands at the beginning of the next."""
        place = replace(self.cursor, seed=dataset.seed, plan=self._facts(dataset))
        if self.ends_epoch:
            place.epoch, place.position = place.epoch + 1, 0
        return place

    def _facts(self, dataset: "TupleDataset") -> dict[str, str]:
        accelerator = self._accelerator
        numbers = {
            "processes": accelerator.num_processes,
            "gradient accumulation": accelerator.gradient_accumulation_steps,
        }
        return {**dataset.facts(), **{name: str(number) for name, number in numbers.items()}}

    def _say(self, text: str) -> None:
        self._accelerator.print(f"warning: {text}")


@contextlib.contextmanager
def readable(folder: Path) -> Iterator[None]:
    """While a state is loaded. Raises SgaError naming a state of the run that is whole, where this one is not."""
    import torch  # only now: whether a state is whole is asked before it is loaded

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    # Of a damaged file torch, pickle, zipfile and safetensors each raise their own.
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        damaged = f"{folder} cannot be loaded ({reason}): it is damaged, or of other settings; {instead_of(folder)}"
        raise SgaError(problem(folder) or damaged) from error


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
