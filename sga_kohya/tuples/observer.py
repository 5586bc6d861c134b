"""Who wants the gradients of an optimizer step apart, sub-batch by sub-batch: all that the accelerator knows of it.

Steps that nobody wants pass by an observer: nothing is hooked or allocated.
"""

import contextlib
from typing import Protocol

from sga_kohya.tuples.step import SubBatch


class GradientObserver(Protocol):
    """Sees the optimizer steps it wants, sub-batch by sub-batch. All processes must give the same answers."""

    def wants(self, step: int) -> bool:
        """Whether the gradients of this optimizer step, counted from 1, are taken apart. They are then not
        synchronised by the backward pass, but here."""
        ...

    def watch(self, sub_batch: SubBatch, closes_step: bool) -> contextlib.AbstractContextManager[None]:
        """Entered around the backward pass of each sub-batch of such a step."""
        ...
