"""The units of tuple-wise optimization.

A *slice* is one training image. A *group* is one region of a photo with its slices. A *tuple step* is one optimizer
step: whole groups that have the same granularities. A *sub-batch* is what goes through the model at once: slices of one
granularity, one dataset and one resolution bucket.
"""

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slice:
    """One training sample. dataset: index of the dataset that loads it by key. bucket: equal buckets can be stacked."""

    dataset: int
    key: str
    granularity: str | None
    bucket: Hashable


Group = tuple[Slice, ...]


@dataclass(frozen=True, slots=True)
class SubBatch:
    """What the training step knows of the batch in hand.

    granularities: of each sample, None where unknown. weight: factor of its mean loss in the step's gradient.
    last: whether it closes its tuple step. groups: how many groups that step ends with it, 0 unless it is the last.
    """

    dataset: int
    keys: tuple[str, ...]
    granularities: tuple[str | None, ...]
    weight: float = 1.0
    last: bool = True
    groups: int = 0


TupleStep = tuple[SubBatch, ...]
