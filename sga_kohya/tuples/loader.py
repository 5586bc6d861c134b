"""From planned tuple steps to batches: a dataset whose item is a whole step, a loader that yields its sub-batches.

The loader's length stays the number of tuple steps, so a host's arithmetic of epochs, steps and schedules stays right.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from sga_kohya.tuples.step import SubBatch, TupleStep

Item = list[tuple[SubBatch, Any]]


class TupleDataset(Dataset[Item]):
    """Item (epoch, i) is the i-th tuple step of that epoch: a list of (SubBatch, batch).

    The epoch travels with the index because workers, prefetching and persistent workers all run ahead of or behind
    whatever epoch number the main process keeps.
    """

    def __init__(self) -> None:
        self._epoch: int | None = None
        self._steps: list[TupleStep] = []

    @abstractmethod
    def plan(self, epoch: int) -> list[TupleStep]:
        """The epoch's tuple steps; called once an epoch in each process that loads data."""

    @abstractmethod
    def load(self, sub_batch: SubBatch) -> Any:
        """The batch of one sub-batch of the current plan."""

    def sampler(self, loader: DataLoader) -> "Sampler | None":
        """What should replace the loader's sampler; None keeps it."""
        return None

    def __getitem__(self, index: tuple[int, int]) -> Item:
        epoch, position = index
        if epoch != self._epoch:
            self._steps, self._epoch = self.plan(epoch), epoch
        return [(sub_batch, self.load(sub_batch)) for sub_batch in self._steps[position]]


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


class TupleLoader:
    """Wraps a prepared DataLoader over a TupleDataset; yields one sub-batch's batch at a time.

    present(sub_batch, ends_epoch) is called just before each batch is handed out. Batches are moved to the device one
    by one, so that a tuple step needs no more memory there than its largest sub-batch.
    """

    def __init__(
        self,
        loader: DataLoader,
        present: Callable[[SubBatch, bool], None],
        to_device: Callable[[Any], Any],
    ):
        self.loader = loader
        self._present = present
        self._to_device = to_device

    def __len__(self) -> int:
        """Tuple steps of this process in an epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        final = len(self.loader) - 1
        for position, item in enumerate(self.loader):
            for sub_batch, batch in item:
                self._present(sub_batch, position == final)
                yield self._to_device(batch)

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
