"""Millions of names that are looked up and never listed."""

from array import array
from collections.abc import Iterator
from hashlib import blake2b

import numpy as np


class Index:
    """From names to numbers, of each name as many as were added. It holds 13 bytes for a number, and no name.

    Names are told apart by 64 bits of a hash: what must not be mistaken has to be compared where the number leads. All
    is added before the first question, with `settle` behind it.
    """

    def __init__(self) -> None:
        self._added = array("Q"), array("I")
        self._keys = np.empty(0, np.uint64)
        self._numbers = np.empty(0, np.uint32)
        self._marks = np.empty(0, bool)

    def add(self, name: str, number: int) -> None:
        """number: below 2 ** 32."""
        self._added[0].append(_key(name))
        self._added[1].append(number)

    def __contains__(self, name: str) -> bool:
        found = self._where(name)
        return found.start < found.stop

    def of(self, name: str) -> list[int]:
        """In the order in which they were added."""
        found = self._where(name)
        return [int(number) for number in self._numbers[found]]

    def numbers(self) -> list[int]:
        return [int(number) for number in self._numbers]

    def mark(self, name: str) -> bool:
        """Whether there is such a name, and it was not marked before."""
        found = self._where(name)
        unmarked = found.start < found.stop and not self._marks[found.start]
        self._marks[found] = True
        return bool(unmarked)

    def unmarked(self) -> Iterator[int]:
        """The numbers of names that are not marked now, each once, in order."""
        yield from (int(number) for number in np.unique(self._numbers[~self._marks]))

    def _where(self, name: str) -> slice:
        if not len(self._keys):
            return slice(0, 0)
        key = np.uint64(_key(name))
        return slice(int(self._keys.searchsorted(key)), int(self._keys.searchsorted(key, "right")))

    def settle(self) -> None:
        keys, numbers = np.array(self._added[0], np.uint64), np.array(self._added[1], np.uint32)
        order = np.argsort(keys, kind="stable")
        self._keys, self._numbers, self._marks = keys[order], numbers[order], np.zeros(len(order), bool)
        self._added = array("Q"), array("I")


def _key(name: str) -> int:
    # surrogatepass: a name that is not UTF-8.
    return int.from_bytes(blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest(), "little")
