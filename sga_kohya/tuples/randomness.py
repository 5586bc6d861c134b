"""Random numbers that depend on where in the plan a run stands, and on nothing else.

So they need no saving: a run that is resumed, or that loads its data in other processes, draws the same.
"""

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch

Place = tuple[int | str, ...]


def seed_of(place: Place) -> int:
    """A seed of 63 bits for a place such as (seed, epoch, index)."""
    return int.from_bytes(hashlib.blake2b(repr(place).encode(), digest_size=8).digest(), "big") >> 1


def seed_all(place: Place) -> None:
    """Seed Python, NumPy and torch on all devices for what happens at a place."""
    seed = seed_of(place)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextlib.contextmanager
def isolated(place: Place) -> Iterator[None]:
    """Inside, the CPU's random numbers are those of the place; outside, they go on as if nothing had been drawn."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = seed_of(place)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would reach the GPU's generators too
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
