"""Near-duplicate photos, by perceptual hash: the same picture saved, scaled or slightly edited again."""

import numpy as np
from PIL import Image

from sga_kohya.hsd.photos.images import shrink

SIDE = 128
"""A photo is made this small first: hashing sees 32 pixels, and a small copy is many times faster."""


def perceptual_hash(pixels: np.ndarray) -> str:
    """pHash of (H, W, 3) RGB uint8: 64 bits as 16 hexadecimal digits."""
    from imagehash import phash  # it brings SciPy, which the command line need not wait for

    return str(phash(Image.fromarray(shrink(pixels, (SIDE, SIDE)))))


class NearDuplicates:
    """The photos so far, in the order in which they are asked for, which decides which of two is the first."""

    def __init__(self, distance: int) -> None:
        """distance: largest number of differing bits; -1 finds nothing."""
        self.distance = distance
        self._sources: list[str] = []
        self._hashes = np.empty(256, np.uint64)

    def first(self, source: str, phash: str) -> tuple[str, int] | None:
        """The nearest earlier photo within the distance, the earliest of several, and its distance; else remembers."""
        value, count = np.uint64(int(phash, 16)), len(self._sources)
        if count and self.distance >= 0:
            distances = _bits(self._hashes[:count] ^ value)
            nearest = int(np.argmin(distances))
            if distances[nearest] <= self.distance:
                return self._sources[nearest], int(distances[nearest])
        if count == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.empty_like(self._hashes)])
        self._hashes[count] = value
        self._sources.append(source)
        return None


def _bits(values: np.ndarray) -> np.ndarray:
    """Set bits of (n,) uint64; NumPy has bitwise_count only from 2.0 on."""
    return np.unpackbits(values[:, None].view(np.uint8), axis=1).sum(axis=1)
