"""Near-duplicate photos, by perceptual hash: the same picture saved, scaled or slightly edited again."""

from array import array
from itertools import combinations

import numpy as np
from PIL import Image

from sga_kohya.hsd.out.manifest import NEAR_DUPLICATE
from sga_kohya.hsd.photos.photo import Photo
from sga_kohya.hsd.photos.scaling import shrink

SIDE = 128
"""A photo is made this small first: hashing sees 32 pixels, and a small copy is many times faster."""

FLAT = 2.0
"""Standard deviation, in grey levels of 256, below which a picture is blank: what its hash says would be noise."""


def perceptual_hash(pixels: np.ndarray, half: np.ndarray | None = None) -> str:
    """pHash of (H, W, 3) RGB uint8: 64 bits as 16 hexadecimal digits, "" for a blank one, which is like no other.

    half: as of `shrink`.
    """
    from imagehash import phash  # it brings SciPy, which the command line need not wait for

    small = Image.fromarray(shrink(pixels, (SIDE, SIDE), half))
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
        self._near = Neighbours(max(0, distance))

    def __call__(self, photo: Photo) -> str | None:
        """Names the nearest photo within the distance, the first of several."""
        if not (photo.phash and self._sources and self.distance >= 0):
            return None
        bits = int(photo.phash, 16)
        found = self._near.candidates(bits)
        hashes = self._hashes[: len(self._sources)] if found is None else self._hashes[found]
        if not len(hashes):
            return None
        distances = _bits(hashes ^ np.uint64(bits))
        nearest = int(np.argmin(distances))
        if distances[nearest] > self.distance:
            return None
        number = nearest if found is None else found[nearest]
        return f"{self.kind}: of {self._sources[number]}, {distances[nearest]} of 64 bits differ"

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
        self._near.add(int(photo.phash, 16))


class Neighbours:
    """Numbers 0, 1, … of 64-bit hashes, by the five parts of each: of two hashes that differ in d bits, one part
    differs in d // 5 at most. So a look at a few in a thousand finds all that are near."""

    def __init__(self, distance: int) -> None:
        """distance: of those that are sought, in bits."""
        self._lists: list[dict[int, array]] = [{} for _ in PARTS]
        self._count = 0
        reach = distance // len(PARTS)
        self._flips = [
            [sum(1 << bit for bit in bits) for size in range(reach + 1) for bits in combinations(range(width), size)]
            for _, width in PARTS
        ]

    def add(self, hashed: int) -> None:
        for lists, part in zip(self._lists, _parts(hashed), strict=True):
            lists.setdefault(part, array("I")).append(self._count)
        self._count += 1

    def candidates(self, hashed: int) -> np.ndarray | None:
        """In order: all that are near, and more; None where it is as well to look at all of them."""
        if sum(map(len, self._flips)) > self._count:
            return None
        found = [
            np.frombuffer(lists[part ^ flip], np.uint32)
            for lists, part, flips in zip(self._lists, _parts(hashed), self._flips, strict=True)
            for flip in flips
            if part ^ flip in lists
        ]
        # A view of an array keeps it from growing: none may outlive this call.
        return np.unique(np.concatenate(found)) if found else np.empty(0, np.uint32)


PARTS = ((0, 13), (13, 13), (26, 13), (39, 13), (52, 12))
"""Of a hash: the lowest bit and the number of bits of each."""


def _parts(hashed: int) -> list[int]:
    return [hashed >> low & (1 << width) - 1 for low, width in PARTS]


def _bits(values: np.ndarray) -> np.ndarray:
    """Set bits of (n,) uint64; NumPy has bitwise_count only from 2.0 on."""
    return np.unpackbits(values[:, None].view(np.uint8), axis=1).sum(axis=1)
