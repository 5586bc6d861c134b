"""From planned tuple steps to batches: a dataset whose item is a whole step, a loader that yields its sub-batches.

The loader's length stays the number of tuple steps, so a host's arithmetic of epochs, steps and schedules stays right.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from sga_kohya.tuples.contents import Contents
from sga_kohya.tuples.randomness import Place, isolated
from sga_kohya.tuples.step import SubBatch, TupleStep


@dataclass(frozen=True, slots=True)
class LoadedStep:
    """A tuple step with the batch of each sub-batch. place: where its random numbers come from; None: from wherever."""

    parts: list[tuple[SubBatch, Any]]
    place: Place | None = None


class TupleDataset(Dataset[LoadedStep]):
    """Item (epoch, i) is the i-th tuple step of that epoch.

    The epoch travels with the index because workers, prefetching and persistent workers all run ahead of or behind
    whatever epoch number the main process keeps. Loading has random numbers of its own (flips, caption dropout), so
    that they are the same in every worker and leave those of training alone. seed: of the plan and of all randomness.
    """

    seed: int = 0

    def __init__(self) -> None:
        self._epoch: int | None = None
        self._steps: Sequence[TupleStep] = ()

    @abstractmethod
    def plan(self, epoch: int) -> Sequence[TupleStep]:
        """The epoch's tuple steps; called once an epoch in each process that loads data."""

    def begin_step(self, epoch: int, position: int) -> None:
        """Called before the sub-batches of a tuple step are loaded."""

    @abstractmethod
    def load(self, sub_batch: SubBatch) -> Any:
        """The batch of one sub-batch of the current plan."""

    def sampler(self, loader: DataLoader) -> "EpochSampler | None":
        """What should replace the loader's sampler; None keeps it, and then there is no order to resume."""
        return None

    def facts(self) -> dict[str, str]:
        """What the plan is made of, by name: as long as it is the same, the same seed gives the same plan."""
        return {}

    def contents(self) -> Contents:
        """What the files are of which the data are made."""
        return {}

    def __getitem__(self, index: tuple[int, int]) -> LoadedStep:
        epoch, position = index
        if epoch != self._epoch:
            self._steps, self._epoch = self.plan(epoch), epoch
        self.begin_step(epoch, position)
        place = (self.seed, epoch, position)
        with isolated((*place, "data")):
            return LoadedStep([(sub_batch, self.load(sub_batch)) for sub_batch in self._steps[position]], place)


class EpochSampler(Sampler):
    """Yields (epoch, 0), (epoch, 1), …: the plan is in random order already. epoch: asked for when an epoch begins."""

    def __init__(self, length: int, epoch: Callable[[], int]):
        self.length = length
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch()
        return ((epoch, position) for position in range(self.length))


class Consumer(Protocol):
    """Who trains on what a TupleLoader yields."""

    def begin_epoch(self, epoch: int | None) -> int | None:
        """The epoch's tuple steps to skip because they were made before; None to skip all of it."""

    def wait(self) -> None:
        """The training loop asks for the next batch."""

    def present(self, sub_batch: SubBatch, place: Place | None, ends_epoch: bool) -> None:
        """Called just before a batch is handed out. place: given with a step's first sub-batch only."""

    def to_device(self, batch: Any) -> Any:
        """The batch where the model is."""

    def skip_steps(self, loader: DataLoader, count: int) -> DataLoader:
        """The same loader without its first items, which are not loaded."""
        ...


class TupleLoader:
    """Wraps a prepared DataLoader over a TupleDataset; yields one sub-batch's batch at a time.

    Batches are moved to the device one by one, so that a tuple step needs no more memory there than its largest
    sub-batch. epoch: asked for when an epoch begins; None where the order of data is not ours.
    """

    def __init__(self, loader: DataLoader, consumer: Consumer, epoch: Callable[[], int] | None):
        self.loader = loader
        self._consumer = consumer
        self._epoch = epoch

    def __len__(self) -> int:
        """Tuple steps of this process in an epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        consumer = self._consumer
        skip = consumer.begin_epoch(self._epoch() if self._epoch else None)
        if skip is None:
            return
        loader = consumer.skip_steps(self.loader, skip) if skip else self.loader
        final = len(self.loader) - 1
        consumer.wait()
        for position, step in enumerate(loader, start=skip):
            place = step.place
            for sub_batch, batch in step.parts:
                consumer.present(sub_batch, place, position == final)
                yield consumer.to_device(batch)
                consumer.wait()
                place = None

    def without(self, batches: int) -> "TupleLoader":
        """For a loader whose items are single batches: without the first ones."""
        return TupleLoader(self._consumer.skip_steps(self.loader, batches), self._consumer, self._epoch)

    @property
    def ordered(self) -> bool:
        """Whether its order is a plan of ours."""
        return self._epoch is not None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def with_sampler(loader: DataLoader, sampler: Sampler) -> DataLoader:
    """The same DataLoader, one item at a time, in the sampler's order."""
    workers: dict[str, Any] = {}
    if loader.num_workers > 0:
        workers = {
            "persistent_workers": loader.persistent_workers,
            "prefetch_factor": loader.prefetch_factor,
            "multiprocessing_context": loader.multiprocessing_context,
        }
    return torch.utils.data.DataLoader(
        loader.dataset,
        batch_size=1,
        sampler=sampler,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        generator=loader.generator,
        **workers,
    )
