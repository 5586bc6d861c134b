"""The estimate of memory for the data of a run: of its largest sub-batch, beside what this machine's GPU has."""

import math
from collections.abc import Hashable, Iterator, Sequence

import torch

from sga_kohya.training.dataset import RunDataset
from sga_kohya.training.host import Levels
from sga_kohya.training.memory import GIGA, Load, Model, Part, parts


def largest(dataset: RunDataset, levels: Levels) -> tuple[Model, Load] | None:
    """What is trained, and how, of the largest sub-batch; None where the model's numbers are not known."""
    planner = dataset.planner
    sizes = {(planner.batch_sizes[cell.dataset], _size(cell.bucket)) for cell in planner.groups.counts()}
    if not sizes:
        return None
    batch, (width, height, frames) = max(sizes, key=lambda size: size[0] * math.prod(size[1]))
    return levels.memory(batch, round(math.sqrt(width * height)), frames)


def memory_of(asked: tuple[Model, Load] | None) -> list[Part]:
    """What the largest sub-batch will take of a GPU; nothing where the model's numbers are not known. asked: `largest`
    of the run's data."""
    return list(parts(*asked)) if asked is not None else []


def too_much(memory: Sequence[Part]) -> Iterator[str]:
    """A warning where the estimate is above what the GPU has."""
    needed = sum(part.gigabytes for part in memory)
    if not memory or not torch.cuda.is_available():
        return
    there = torch.cuda.get_device_properties(0).total_memory / GIGA
    if needed > there:
        yield (
            f"about {needed:.0f} GB are needed, an estimate, and {torch.cuda.get_device_name()} has {there:.0f}: use a "
            "smaller batch_size or resolution, gradient_checkpointing, an 8-bit optimizer, fp8_base or blocks_to_swap; "
            "`python -m sga_kohya.presets list` has presets for 12, 16 and 24 GB"
        )


def _size(bucket: Hashable) -> tuple[int, int, int]:
    """Width and height in pixels, and frames, of a host's bucket, which may say more."""
    numbers = [number for number in bucket[:3] if isinstance(number, int)] if isinstance(bucket, tuple) else []
    width, height, frames, *_ = (*numbers, *(1, 1, 1)[len(numbers) :])
    return width, height, frames
