"""The data of a run, whatever host loads them: slices with a granularity and a group, and the plan made of them."""

import functools
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from torch.utils.data import DataLoader

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.tuples.groups import Cell, form_groups
from sga_kohya.tuples.loader import EpochSampler, TupleDataset
from sga_kohya.tuples.planner import VERSION, Planner, eq_6
from sga_kohya.tuples.step import Slice, TupleStep


class Measure(NamedTuple):
    """What a slice is to a model. width, height: in pixels. frames: of a clip, else 1. tokens: of its latents."""

    width: int
    height: int
    frames: int
    tokens: int


class RunDataset(TupleDataset):
    """Item (epoch, i) is a tuple step. What loads a sub-batch is the host's.

    planned: whether its items are tuple steps of the plan, not the host's own batches. tuples_per_update: tuple steps
    of all processes that an optimizer step takes.
    """

    planned = True
    tuples_per_update = 1

    def __init__(
        self,
        slices: Iterable[tuple[Slice, str | None]],
        batch_sizes: Sequence[int],
        config: SgaConfig,
        seed: int,
        manifests: dict[str, str],
    ):
        """slices: each with its group's name. batch_sizes: of the host's datasets. manifests: Identifier.metadata."""
        super().__init__()
        self.labels, self._manifests = config.granularities, manifests
        self.planner = Planner(
            groups=form_groups(slices),
            batch_sizes=batch_sizes,
            weight=eq_6(config),
            groups_per_step=config.groups_per_step,
            seed=seed,
        )

    def __len__(self) -> int:
        return len(self.planner)

    @property
    def seed(self) -> int:
        """The plan's; a resumed run takes that of its state."""
        return self.planner.seed

    @seed.setter
    def seed(self, value: int) -> None:
        self.planner.seed = value

    def plan(self, epoch: int) -> Sequence[TupleStep]:
        return self.planner.epoch(epoch)

    def update_of(self, epoch: int, position: int) -> int:
        """The optimizer step, from 0, that a tuple step belongs to. A host's own count reaches a worker late."""
        return ((epoch - 1) * len(self) + position) // self.tuples_per_update

    def sampler(self, loader: DataLoader) -> EpochSampler:
        epoch = getattr(loader.collate_fn, "current_epoch", None)
        if epoch is None:
            raise SgaError("this trainer keeps its epoch elsewhere than in collator_class.current_epoch")
        return EpochSampler(len(self), lambda: epoch.value)

    def metadata(self) -> dict[str, str]:
        """What the data were, for a saved model's header."""
        return {**self.planner.metadata(), **self._manifests}

    def notes(self) -> Iterator[str]:
        """Further lines for the plan that is printed, indented by two."""
        yield from ()

    def measure(self, cell: Cell) -> Measure | None:
        """Of each of its slices, which are all alike; None where the host does not tell."""
        return None

    def warnings(self) -> Iterator[str]:
        """What looks wrong in the host's own description of the data, a sentence each."""
        yield from ()

    def facts(self) -> dict[str, str]:
        return self._facts

    @functools.cached_property
    def _facts(self) -> dict[str, str]:
        """Every saved state asks for them, and they do not change."""
        planner = self.planner
        digest, groups = hashlib.sha256(), planner.groups
        for number in range(len(groups)):
            # Names without folders, because a dataset that was moved is still the same.
            members = [(*cell, os.path.basename(key)) for cell, key in groups.members(number)]
            digest.update(repr(members).encode())
        return {
            "planner": str(VERSION),
            "groups": str(len(groups)),
            "slices": digest.hexdigest()[:16],
            "batch sizes": ",".join(map(str, planner.batch_sizes)),
            "groups a step": str(planner.groups_per_step or "as batch size"),
        }
