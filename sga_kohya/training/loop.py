"""The host's training loop, reached where it asks our data loader for an epoch: its step count and its progress bar.

Every script keeps `global_step` and `progress_bar` as variables of the function that holds its loop, and starts them at
zero also when it resumes. They are found in that function's frame, so that a resumed run counts, names, samples, stops
and logs by true steps. What the loop does at the end of an epoch is told by `args`, so that epochs which are over, or
cut off, pass in silence.
"""

import argparse
import ctypes
import sys
from types import FrameType
from typing import Any

from sga_kohya.errors import SgaError

# Each as the host reads it at an epoch's end, and the value that makes it do nothing.
_AT_EPOCH_ENDS = {"save_every_n_epochs": None, "sample_every_n_epochs": None, "validate_every_n_epochs": sys.maxsize}


class HostLoop:
    """args: the host's, which its loop reads anew each time."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self._replaced: dict[str, Any] = {}

    def replace(self, **values: Any) -> None:
        """Set options of the host until `restore`. Those that a script does not know are left out."""
        for name, value in values.items():
            if hasattr(self.args, name):
                self._replaced.setdefault(name, getattr(self.args, name))
                setattr(self.args, name, value)

    def restore(self) -> None:
        """Give the host its own values back."""
        for name, value in self._replaced.items():
            setattr(self.args, name, value)
        self._replaced = {}

    def silence(self) -> None:
        """The epoch that begins has nothing to train: no checkpoint, samples or validation at its end either."""
        self.replace(**_AT_EPOCH_ENDS)

    def progress_bar(self) -> Any:
        """Its tqdm, None where there is no loop."""
        frame = _loop_frame()
        return None if frame is None else frame.f_locals["progress_bar"]

    def step(self) -> int:
        """Its count of optimizer steps, 0 where there is no loop."""
        frame = _loop_frame()
        return 0 if frame is None else frame.f_locals["global_step"]

    def epoch(self) -> int:
        """The epoch it is in, from 1; 0 where there is no loop."""
        frame = _loop_frame()
        return 0 if frame is None else frame.f_locals["epoch"] + 1

    def go_on_from(self, step: int) -> None:
        """Make the loop count from this optimizer step. Raises SgaError when its counter cannot be reached."""
        frame = _loop_frame()
        if frame is not None:
            frame.f_locals["global_step"] = step
            if sys.version_info < (3, 13):  # from there on f_locals writes through by itself (PEP 667)
                ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))
        if frame is None or frame.f_locals["global_step"] != step:
            raise SgaError("this trainer keeps its step count elsewhere, so it cannot be resumed exactly")
        bar = frame.f_locals["progress_bar"]
        bar.initial = bar.n = bar.last_print_n = step
        bar.refresh()


def _loop_frame() -> FrameType | None:
    """The nearest caller that has a step count and a progress bar."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not {"global_step", "progress_bar"} <= set(frame.f_locals):
        frame = frame.f_back
    return frame
