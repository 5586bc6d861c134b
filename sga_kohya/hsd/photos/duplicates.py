"""Near-duplicate photos, by perceptual hash: the same picture saved, scaled or slightly edited again."""

from collections.abc import Iterable

import numpy as np
from PIL import Image

from sga_kohya.hsd.photos.images import shrink

SIDE = 128
"""A photo is made this small first: hashing sees 32 pixels, and a small copy is many times faster."""


FLAT = 2.0
"""Standard deviation, in grey levels of 256, below which a picture is blank: what its hash says would be noise."""


def perceptual_hash(pixels: np.ndarray) -> str:
    """pHash of (H, W, 3) RGB uint8: 64 bits as 16 hexadecimal digits, "" for a blank one, which is like no other."""
    from imagehash import phash  # it brings SciPy, which the command line need not wait for

    small = Image.fromarray(shrink(pixels, (SIDE, SIDE)))
    if np.asarray(small.convert("L").resize((32, 32))).std() < FLAT:
        return ""
    return str(phash(small))


class NearDuplicates:
    """Photos that are used, against which others are held."""

    def __init__(self, distance: int) -> None:
        """distance: largest number of differing bits; -1 finds nothing."""
        self.distance = distance
        self._sources: list[str] = []
        self._hashes = np.empty(256, np.uint64)

    def nearest(self, phash: str) -> tuple[str, int] | None:
        """The nearest photo within the distance, the first of several, and its distance."""
        count = len(self._sources)
        if not (phash and count and self.distance >= 0):
            return None
        distances = _bits(self._hashes[:count] ^ np.uint64(int(phash, 16)))
        nearest = int(np.argmin(distances))
        return (self._sources[nearest], int(distances[nearest])) if distances[nearest] <= self.distance else None

    def alike(self, phash: str, others: Iterable[str]) -> bool:
        """Whether one of other photos is within the distance."""
        value = int(phash or "0", 16)
        return any(phash and other and (value ^ int(other, 16)).bit_count() <= self.distance for other in others)

    def add(self, source: str, phash: str) -> None:
        """A photo that is used; a blank one matches none."""
        if not phash:
            return
        count = len(self._sources)
        if count == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.empty_like(self._hashes)])
        self._hashes[count] = np.uint64(int(phash, 16))
        self._sources.append(source)


def _bits(values: np.ndarray) -> np.ndarray:
    """Set bits of (n,) uint64; NumPy has bitwise_count only from 2.0 on."""
    return np.unpackbits(values[:, None].view(np.uint8), axis=1).sum(axis=1)
