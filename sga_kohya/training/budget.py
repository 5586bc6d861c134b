"""Checkpoints and the end of training by hours, so that runs can be compared at equal cost (section 4.1, 0.F.2).

The host saves where `save_every_n_steps` divides its step count and stops at `max_train_steps`; both are set when the
step nearest to a time has been made. The checkpoint is named by its hours instead of its step: see the host's saved.py.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sga_kohya.tuples.cursor import Cursor

if TYPE_CHECKING:
    from sga_kohya.training.loop import HostLoop


class Budget:
    """save_at, stop_at: in hours of training, counted over resumes."""

    def __init__(self, save_at: Sequence[float], stop_at: float | None):
        self.pending = list(save_at)
        self.stop_at = stop_at
        self.saving: tuple[int, float] | None = None  # the step at which the host saves for us, and for which hours
        self._before: float | None = None  # hours at the last step; None until the first epoch begins

    def __bool__(self) -> bool:
        return bool(self.pending) or self.stop_at is not None

    def begin(self, cursor: Cursor) -> None:
        """An epoch begins; if it is the run's first, what a resumed run has behind it is not saved again."""
        if self._before is None:
            self.pending = [h for h in self.pending if h >= cursor.hours and h not in cursor.saved_hours]
            self._before = cursor.hours

    def after_step(self, cursor: Cursor, loop: "HostLoop") -> bool:
        """Make the host save or stop if this step is the nearest to a time. Returns whether it stops.

        Where it is the nearest to several, the checkpoint is named by the last.
        """
        near = cursor.hours + (cursor.hours - (self._before or 0.0)) / 2
        self._before = cursor.hours
        due = [hours for hours in self.pending if hours <= near]
        every = loop.args.save_every_n_steps
        # A step at which the host saves anyway keeps its own name; where it saves at all of them, one gives way.
        if due and (every in (None, 1) or cursor.step % every):
            loop.replace(save_every_n_steps=1)
            self.saving = (cursor.step, due[-1])
            cursor.saved_hours += due
            self.pending = [hours for hours in self.pending if hours not in due]
        if self.stop_at is None or near < self.stop_at:
            return False
        loop.args.max_train_steps = cursor.step
        loop.silence()  # an epoch that is cut off is not saved as if it were whole
        return True
