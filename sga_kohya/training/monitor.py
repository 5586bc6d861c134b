"""The run's own figures on the host's trackers (TensorBoard, wandb) and in its progress bar.

They travel with what the host logs at the end of each optimizer step, under the same step number, because wandb drops
what arrives with an older number than its own count.
"""

from typing import Any

from torch import Tensor

from sga_kohya.training.events import Noised, Part
from sga_kohya.tuples.cursor import Cursor
from sga_kohya.tuples.meter import Meter
from sga_kohya.tuples.step import SubBatch


class Monitor(Part):
    """Of this process; on processes that neither log nor show a bar it does nothing.

    silent: set while the host passes through epochs that are over or cut off, about which it shall log nothing either.
    """

    needs = frozenset({"noised"})

    def __init__(self) -> None:
        self.silent = False
        self.meter = Meter()
        self._bar: Any = None
        self._waiting: dict[str, dict[str, float]] = {}  # by tracker: what its next log takes along
        self._trackers: list[str] = []
        self._before = 0.0  # seconds of training at the last step
        self._noted: dict[str, float] = {}
        self.left = ""
        """How long the run still takes, as the bar shows it."""

    @property
    def watched(self) -> bool:
        """Whether anybody sees the figures."""
        return bool(self._trackers) or (self._bar is not None and not self._bar.disable)

    def begin(self, cursor: Cursor, bar: Any) -> None:
        """An epoch begins, perhaps of a resumed run. bar: the host's tqdm."""
        self._before = cursor.seconds
        self._show_on(bar)

    def finish(self, step: int) -> None:
        """The run ends at this step, before the host's bar is full."""
        if self._bar is not None:
            self._bar.total = step

    def count(self, sub_batch: SubBatch, batch_size: int) -> None:
        """A sub-batch is handed out."""
        self.meter.count(sub_batch, batch_size)

    def weighed(self, batch: Noised | None, sub_batch: SubBatch, loss: Tensor) -> Tensor:
        """Notes the loss of each sample, before any weight or mask; it passes unchanged."""
        if self.watched:
            detached, labels = loss.detach(), sub_batch.granularities
            each = detached.flatten(1).mean(1) if detached.ndim > 1 else detached.expand(len(labels))
            self.meter.add(labels, each, None if batch is None else batch.sigma.detach())
        return loss

    def note(self, figures: dict[str, float]) -> None:
        """Further figures of the optimizer step in hand, by tracker name."""
        self._noted |= figures

    def after_step(self, cursor: Cursor, processes: int) -> None:
        """An optimizer step ended; the host logs next. Slices and tuples of all processes are counted."""
        seconds, self._before = cursor.seconds - self._before, cursor.seconds
        if not self.watched:
            return
        figures = self.meter.read(seconds)
        figures["sga/tuples"] = cursor.groups * processes
        figures["sga/samples_per_second"] *= processes
        figures |= self._noted
        self._noted = {}
        self._waiting = dict.fromkeys(self._trackers, figures)

    def attach(self, tracker: Any) -> None:
        """Let a tracker of accelerate take our figures along."""
        log = tracker.log
        self._trackers.append(tracker.name)

        def with_figures(values: dict, *args: Any, **kwargs: Any) -> Any:
            if self.silent:
                return None
            if kwargs.get("commit") is False:  # wandb's sample images: the step's own figures are yet to come
                return log(values, *args, **kwargs)
            return log({**values, **self._waiting.pop(tracker.name, {})}, *args, **kwargs)

        tracker.log = with_figures

    def _show_on(self, bar: Any) -> None:
        """Let a tqdm show the loss of each granularity beside what the host shows."""
        if bar is None or bar is self._bar:
            return
        self._bar, set_postfix = bar, bar.set_postfix

        def with_figures(*args: Any, **values: Any) -> None:
            ours = {label: f"{loss:.4f}" for label, loss in self.meter.smooth.items()}
            ours |= {"left": self.left} if self.left else {}
            set_postfix(*args, **{**values, **ours})

        bar.set_postfix = with_figures
