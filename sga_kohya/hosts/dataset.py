"""A trainer's group of datasets as the data of a run: what is not defined here or in its own folder is its own."""

from bisect import bisect_right
from typing import Any

from sga_kohya.training.dataset import RunDataset
from sga_kohya.tuples.loader import LoadedStep
from sga_kohya.tuples.step import SubBatch


class HostDataset(RunDataset):
    """group: the trainer's. identities: of each of its datasets, the identity of each item by the trainer's key."""

    group: Any
    identities: list[dict[str, Any]]

    def __getattr__(self, name: str) -> Any:
        # Through __dict__, because unpickling asks for attributes before there are any.
        if "group" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["group"], name)


class StockOrder(HostDataset):
    """Without tuples: the trainer's own batches in its own order, each a step of its own, with granularities known."""

    planned = False

    def __len__(self) -> int:
        return len(self.group)

    def sampler(self, loader: Any) -> None:  # type: ignore[override]
        """The trainer's own."""

    def facts(self) -> dict[str, str]:
        return {}

    def keys_of(self, dataset: int, place: int) -> tuple[str, ...]:
        """Of the batch at a place of a dataset."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> LoadedStep:  # type: ignore[override]  # its sampler knows no epochs
        batch = self.group[index]  # first, because some shuffle where an epoch begins
        ends = self.group.cumulative_sizes
        number = bisect_right(ends, index)
        keys = self.keys_of(number, index - (ends[number - 1] if number else 0))
        labels = tuple(self.identities[number][key].granularity for key in keys)
        return LoadedStep([(SubBatch(number, keys, labels, groups=len(keys)), batch)])
