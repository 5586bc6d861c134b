"""One run: its settings, its parts, the batch in hand, and which events the host has reached."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.training.budget import Budget
from sga_kohya.training.events import Draw, Noised, Part, Run
from sga_kohya.training.monitor import Monitor
from sga_kohya.training.parts import parts_of
from sga_kohya.tuples.accelerator import TupleAccelerator
from sga_kohya.tuples.step import SubBatch
from sga_kohya.words import TRAIN_HOURS

if TYPE_CHECKING:
    from sga_kohya.training.dataset import RunDataset
    from sga_kohya.training.loop import HostLoop
    from sga_kohya.training.paces import Task

P = TypeVar("P", bound=Part)


@dataclass
class Session:
    """expected: events that must have happened when the first optimizer step ends. parts: in the order they hear."""

    config: SgaConfig
    expected: frozenset[str] = frozenset()
    fired: set[str] = field(default_factory=set)
    accelerator: TupleAccelerator | None = None
    dataset: "RunDataset | None" = None
    waiting: "list[Callable[[RunDataset], None]]" = field(default_factory=list)
    """What is to be done with the data once the host has made them."""
    held_out: Any = None
    """What the host's own seams know of the validation split, from when the datasets are built."""
    loop: "HostLoop | None" = None
    task: "Task | None" = None
    """What is trained on which card, of which the pace is noted; None where the model's numbers are not known."""
    last_epoch: int | None = None
    """Set when a run is stopped with epochs left, which the host passes through all the same."""
    batch: Noised | None = None
    """The batch whose loss comes next."""
    parts: list[Part] = field(default_factory=list)
    output_folder: Path | None = None
    """Which nobody else writes into, by `held`."""
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __post_init__(self) -> None:
        self.parts = self.parts or parts_of(self.config)
        self.budget = Budget(self.config.save_at_hours, self.config.stop_at_hours)

    @property
    def current(self) -> SubBatch | None:
        """The sub-batch being trained on; None in validation, sampling and everything else outside a training step."""
        return self.accelerator.current if self.accelerator is not None else None

    @property
    def monitor(self) -> Monitor:
        return self.part(Monitor)

    def has_data(self, dataset: "RunDataset") -> None:
        """The host has made what is trained on: before it asks for its accelerator, or after."""
        self.dataset = dataset
        self.fire("dataset")
        while self.waiting:
            self.waiting.pop(0)(dataset)

    def with_data(self, action: "Callable[[RunDataset], None]") -> None:
        """Do something with the data, now or as soon as there are any."""
        if self.dataset is None:
            self.waiting.append(action)
        else:
            action(self.dataset)

    def data(self) -> "RunDataset":
        """What is trained on. Raises SgaError where the host has made it unseen."""
        if self.dataset is None:
            raise SgaError("SGA cannot see into a --dataset_class of your own: use --dataset_config, or --sga=false")
        return self.dataset

    def training_loop(self) -> "HostLoop":
        """The host's. Raises SgaError before the run has begun."""
        if self.loop is None:
            raise SgaError("the trainer made its accelerator before SGA knew its arguments; use a tested version of it")
        return self.loop

    def part(self, kind: type[P]) -> P:
        """The part of that kind. Raises StopIteration where this run has none."""
        return next(part for part in self.parts if isinstance(part, kind))

    def listens(self, event: str) -> bool:
        """Whether a part does something of its own at that event (a method of Part)."""
        return any(getattr(type(part), event) is not getattr(Part, event) for part in self.parts)

    def started(self, run: Run) -> None:
        for part in self.parts:
            part.started(run)
            self.expected |= part.needs

    def moves(self, draw: Draw) -> bool:
        return any(part.moves(draw) for part in self.parts)

    def noised(self, batch: Noised) -> Noised:
        """The batch as it is to be trained on; it is kept until its loss is taken."""
        if batch.sub_batch is not None:
            self.fire("noised")
        for part in self.parts:
            part.noised(batch)
        self.batch = batch
        return batch

    def compared(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """What the loss is taken of, (B, C, …) each; a loss without a batch of its own stays as it is."""
        batch = self.batch
        if batch is not None:
            if batch.sub_batch is not None:
                self.fire("compared")
            for part in self.parts:
                prediction, target = part.compared(batch, prediction, target)
        return prediction, target

    def weighed(self, loss: Tensor) -> Tensor:
        """The loss of the batch in hand, (B, …) or already a number. The batch is then let go."""
        batch, self.batch = self.batch, None
        sub_batch = self.current
        if sub_batch is not None:
            self.fire("weighed")
            for part in self.parts:
                loss = part.weighed(batch, sub_batch, loss)
        return loss

    def fire(self, event: str) -> None:
        """Note that the host reached an event."""
        self.fired.add(event)

    def close(self) -> None:
        """Let go of what the run held for itself. Doing it twice is harmless."""
        self.output_folder = None
        self.held.close()

    def verify(self) -> None:
        """After an optimizer step: every event that should have happened did. Raises SgaError if not."""
        missed = sorted(self.expected - self.fired)
        if missed:
            raise SgaError(
                f"the first step ended and the trainer never reached {', '.join(missed)}: this run would not be SGA. "
                "Use a tested version of the trainer, or train without it by --sga=false"
            )

    def metadata(self) -> dict[str, str]:
        """`ss_sga_*` entries for a saved model."""
        facts: dict[str, Any] = self.config.metadata()
        for part in self.parts:
            facts |= part.metadata()
        if self.dataset is not None:
            facts |= self.dataset.metadata()
        if self.accelerator is not None:
            if self.last_epoch is not None:
                facts["ss_epoch"] = str(self.last_epoch)
            facts[TRAIN_HOURS] = f"{self.accelerator.cursor.hours:.4f}"
        return facts
