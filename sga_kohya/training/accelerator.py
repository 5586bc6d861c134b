"""The accelerator of a run: what SGA does where a host's loop asks for data, steps, saves and ends.

Resuming, time budgets and statistics happen here, because the accelerator is what every host's loop tells of its steps.
"""

import functools
from typing import Any

from accelerate.utils import broadcast_object_list
from torch.utils.data import DataLoader

from sga_kohya.errors import SgaError
from sga_kohya.kit.text import duration
from sga_kohya.training import probe
from sga_kohya.training.dataset import RunDataset
from sga_kohya.training.pace import SAID_AFTER, Pace
from sga_kohya.training.paces import pictures_a_step, record
from sga_kohya.training.session import Session
from sga_kohya.tuples.accelerator import TupleAccelerator
from sga_kohya.tuples.randomness import Place
from sga_kohya.tuples.step import SubBatch


class HostAccelerator(TupleAccelerator):
    """A TupleAccelerator that knows the host's loop, and that the session can ask."""

    first_epoch = 1
    session: Session  # of the subclass that goes into the host

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.loop = self.session.training_loop()
        self.session.accelerator = self
        self.after_step = self._after_step
        self.pace = Pace()
        probe.attach(self, self.session, self.loop.args)

    @property
    def dataset(self) -> RunDataset:
        """What is trained on; some scripts make it after their accelerator. Raises SgaError where nobody saw it."""
        return self.session.data()

    def prepare_data_loader(self, data_loader: DataLoader, *args: Any, **kwargs: Any) -> Any:
        dataset = self.dataset
        if data_loader.dataset is dataset:
            self.session.fire("accelerator")
            # Without --seed the host draws one in each process, but all ranks must follow one plan.
            (dataset.planner.seed,) = broadcast_object_list([dataset.planner.seed])
            dataset.tuples_per_update = self.num_processes * self.gradient_accumulation_steps
        return super().prepare_data_loader(data_loader, *args, **kwargs)

    def load_state(self, *args: Any, **kwargs: Any) -> None:
        super().load_state(*args, **kwargs)
        options = self.loop.args
        if self.cursor.step >= options.max_train_steps:
            raise SgaError(
                f"the state to resume is at step {self.cursor.step} and max_train_steps is "
                f"{options.max_train_steps}: ask for more steps or epochs"
            )
        options.sample_at_first = False  # those were made when the run began

    def begin_epoch(self, epoch: int | None) -> int | None:
        session, resumes = self.session, self.resumes
        # With other data the host may count one epoch more than its steps need.
        finished = self.cursor.step >= self.loop.args.max_train_steps
        skip = None if finished else super().begin_epoch(epoch)
        session.monitor.silent = skip is None
        if skip is None:
            self.loop.silence()
            return None
        self.loop.restore()
        if resumes:
            self.loop.go_on_from(self.cursor.step)
        if epoch is None:
            self.cursor.step = self.loop.step()  # the host's order of data, so its count of steps as well
        session.budget.begin(self.cursor)
        session.monitor.begin(self.cursor, self.loop.progress_bar())
        return skip

    def present(self, sub_batch: SubBatch, place: Place | None, ends_epoch: bool) -> None:
        super().present(sub_batch, place, ends_epoch)
        self.loop.restore()
        self.session.monitor.count(sub_batch, self.dataset.planner.batch_sizes[sub_batch.dataset])
        self.pace.count(len(sub_batch.keys))

    def init_trackers(self, *args: Any, **kwargs: Any) -> None:
        super().init_trackers(*args, **kwargs)
        for tracker in self.trackers:
            self.session.monitor.attach(tracker)

    def print(self, *args: Any, **kwargs: Any) -> None:
        if not (self.session.monitor.silent or self.stopped):
            super().print(*args, **kwargs)

    def end_training(self) -> None:
        if self.resumes:
            raise SgaError(
                f"the state to resume is in epoch {self.cursor.epoch}, which this run never reached, so nothing was "
                "trained: ask for more steps or epochs"
            )
        self.session.monitor.silent = self.stopped = False
        self._note_pace()
        super().end_training()

    def _after_step(self) -> None:
        session = self.session
        session.verify()
        if session.budget:
            (self.cursor.seconds,) = broadcast_object_list([self.cursor.seconds])  # all ranks must agree
            self.stopped = session.budget.after_step(self.cursor, self.loop)
            if self.stopped:
                session.monitor.finish(self.cursor.step)
                session.last_epoch = self.loop.epoch()
        self._say_time()
        session.monitor.after_step(self.cursor, self.num_processes)

    @functools.cached_property
    def _pictures_a_step(self) -> float:
        """Of this process, in the mean of an epoch."""
        return pictures_a_step(self.dataset, self.dataset.tuples_per_update) / self.num_processes

    def _note_pace(self) -> None:
        """For the plans of later runs; of a run that was too short to know it, nothing."""
        task, measured = self.session.task, self.pace.measured
        if task is None or measured is None or self.pace.steps < SAID_AFTER or not self.is_main_process:
            return
        seconds, pictures = measured
        said = record(task, seconds / pictures, pictures)
        if said:
            self.print(f"sga_kohya: {said}")

    def _say_time(self) -> None:
        """How long the run still takes: in the bar, and once in words."""
        self.pace.after_step(self.cursor.seconds)
        steps = max(0, self.loop.args.max_train_steps - self.cursor.step)
        seconds = self.pace.left(steps * self._pictures_a_step)
        if seconds is None:
            return
        if self.session.config.stop_at_hours is not None:
            seconds = max(0.0, min(seconds, 3600 * self.session.config.stop_at_hours - self.cursor.seconds))
        self.session.monitor.left = duration(seconds)
        if self.pace.steps == SAID_AFTER:
            self.print(f"\nsga_kohya: about {duration(seconds)} of training to go, by the first {SAID_AFTER} steps")
