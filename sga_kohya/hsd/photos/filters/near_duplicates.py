"""Near-duplicate photos, by perceptual hash: the same picture saved, scaled or slightly edited again."""

import numpy as np
from PIL import Image

from sga_kohya.hsd.out.manifest import NEAR_DUPLICATE
from sga_kohya.hsd.photos.photo import Photo
from sga_kohya.hsd.photos.scaling import shrink

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
    """Leaves out photos that are like one that gives slices. Of several the first stays: best the largest."""

    kind = NEAR_DUPLICATE

    def __init__(self, distance: int) -> None:
        """distance: largest number of differing bits; -1 finds nothing."""
        self.distance = distance
        self._sources: list[str] = []
        self._hashes = np.empty(256, np.uint64)

    def __call__(self, photo: Photo) -> str | None:
        """Names the nearest photo within the distance, the first of several."""
        count = len(self._sources)
        if not (photo.phash and count and self.distance >= 0):
            return None
        distances = _bits(self._hashes[:count] ^ np.uint64(int(photo.phash, 16)))
        nearest = int(np.argmin(distances))
        if distances[nearest] > self.distance:
            return None
        return f"{self.kind}: of {self._sources[nearest]}, {distances[nearest]} of 64 bits differ"

    def alike(self, photo: Photo, earlier: Photo) -> bool:
        """Whether two photos are within the distance; a blank one is like nothing."""
        if not (photo.phash and earlier.phash):
            return False
        return (int(photo.phash, 16) ^ int(earlier.phash, 16)).bit_count() <= self.distance

    def used(self, photo: Photo) -> None:
        if not photo.phash:
            return
        count = len(self._sources)
        if count == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.empty_like(self._hashes)])
        self._hashes[count] = np.uint64(int(photo.phash, 16))
        self._sources.append(photo.source)


def _bits(values: np.ndarray) -> np.ndarray:
    """Set bits of (n,) uint64; NumPy has bitwise_count only from 2.0 on."""
    return np.unpackbits(values[:, None].view(np.uint8), axis=1).sum(axis=1)
