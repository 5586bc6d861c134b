"""The data of a run, whatever host loads them: slices with a granularity and a group, and the plan made of them."""

from collections.abc import Iterator

from sga_kohya.tuples.loader import TupleDataset
from sga_kohya.tuples.planner import Planner


class RunDataset(TupleDataset):
    """planner: of its slices. planned: whether its items are tuple steps of the plan, not the host's own batches.

    tuples_per_update: tuple steps of all processes that an optimizer step takes.
    """

    planned = True
    tuples_per_update = 1
    planner: Planner

    def metadata(self) -> dict[str, str]:
        """What the data were, for a saved model's header."""
        return self.planner.metadata()

    def warnings(self) -> Iterator[str]:
        """What looks wrong in the host's own description of the data, a sentence each."""
        yield from ()
