"""Where masks come from: the photos' own transparency, a folder of pictures, or what a detector draws.

A mask is (H, W) uint8 of its photo's upright size: what is 255 counts, what is 0 does not.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from sga_kohya.errors import SgaError
from sga_kohya.hsd.cut.geometry import Size
from sga_kohya.hsd.photos.finding import find_images
from sga_kohya.hsd.photos.images import UnreadableImage, decode_alpha, decode_image
from sga_kohya.kit.files import sha256

NONE, ALPHA, DETECTOR = "", "alpha", "detector"
"""What the setting `masks` can be, if it is no folder. By default transparency is laid on white, as most viewers do."""
COUNTS = 255
SHAPE = 0.01
"""Share by which a mask's aspect may differ from its photo's: a smaller copy has whole pixels, too."""
MISSING = "no mask, all of it counts"
NOT_DRAWN = "the detector drew no mask, all of it counts"


class UnreadableMask(Exception):
    """A mask that cannot be one of its photo's; the message says why."""


@dataclass(frozen=True)
class Masks:
    """kind: NONE, ALPHA, DETECTOR or a folder. files: the folder's pictures, by path below it without suffix.

    strays: those that are of no photo, or of one that has another mask.
    """

    kind: str = NONE
    files: Mapping[str, Path] | None = None
    strays: Sequence[str] = ()

    @property
    def beside(self) -> bool:
        """Whether masks are files of their own, one for every slice; otherwise they are in the slices."""
        return are_beside(self.kind)

    def of(self, source: str, data: bytes, size: Size) -> tuple[np.ndarray | None, tuple[str, ...]]:
        """The mask of a photo, and what a user should know of it. data: the photo's file, size: upright.

        None where all counts, and where a detector has yet to draw it. Raises UnreadableMask, OSError.
        """
        if self.kind == ALPHA:
            return decode_alpha(data), ()
        if self.files is None:
            return None, ()
        file = self.files.get(_key(source))
        return (None, (MISSING,)) if file is None else (read_mask(file, size), ())

    def state(self, source: str) -> str:
        """A digest of what a photo's mask depends on, beside the photo and its detector."""
        file = (self.files or {}).get(_key(source))
        return f"{'folder' if self.files is not None else self.kind} {sha256(file) if file else ''}"


def are_beside(kind: str) -> bool:
    """Whether masks of this kind are files beside the slices."""
    return kind not in (NONE, ALPHA)


def is_masks(kind: str) -> bool:
    return kind in (NONE, ALPHA, DETECTOR) or Path(kind).is_dir()


def without_masks(kind: str, photos: Path, found: Sequence[Path]) -> list[Path]:
    """The photos among the pictures below `photos`, where masks lie below it, too. Raises SgaError for one folder."""
    folder = Path(kind).resolve()
    if kind in (NONE, ALPHA, DETECTOR) or not folder.is_relative_to(photos):
        return list(found)
    if folder == photos:
        raise SgaError(f"masks {kind}: these are the photos: give the masks a folder of their own")
    return [path for path in found if not path.is_relative_to(folder)]


def find_masks(kind: str, photos: Path, sources: Sequence[str], markers: Collection[str]) -> Masks:
    """kind: of the setting. sources: the photos below `photos`. markers: of folders with results, which are no masks.

    Raises SgaError for a folder that has none of them.
    """
    if kind in (NONE, ALPHA, DETECTOR):
        return Masks(kind)
    folder = Path(kind).resolve()
    found = find_images(folder, photos, markers)
    files = _by_key(folder, found.images)
    if not any(_key(source) in files for source in sources):
        have = f"such as {found.images[0].relative_to(folder)}" if found.images else "none at all"
        raise SgaError(
            f"masks {kind}: of its pictures, {have}, none has the name of a photo, such as {sources[0]}: give each "
            "mask its photo's sub-folder and name, with any suffix"
        )
    used = {files.get(_key(source)) for source in sources}
    strays = [path for path in found.images if path not in used]
    return Masks(kind, files, [path.relative_to(folder).as_posix() for path in strays])


def known_masks(kind: str, photos: Path, markers: Collection[str]) -> Masks:
    """The same, of which it is known that they are the photos'."""
    if kind in (NONE, ALPHA, DETECTOR):
        return Masks(kind)
    folder = Path(kind).resolve()
    return Masks(kind, _by_key(folder, find_images(folder, photos, markers).images))


def _by_key(folder: Path, files: Sequence[Path]) -> dict[str, Path]:
    return {_key(path.relative_to(folder).as_posix()): path for path in reversed(files)}


def read_mask(file: Path, size: Size) -> np.ndarray:
    """The brightness of a picture, 0 where it is transparent, in (width, height) of its photo.

    One of another size is resized, if it has the photo's shape. Raises UnreadableMask, OSError.
    """
    data = file.read_bytes()
    try:
        pixels, alpha = decode_image(data)[0], decode_alpha(data)
    except UnreadableImage as error:
        raise UnreadableMask(f"{file.name}: {error}") from None
    mask = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    if alpha is not None:
        mask = np.minimum(mask, alpha)
    if mask.max() == 1:
        raise UnreadableMask(f"{file.name} has no pixel above 1 of {COUNTS}: write what counts as {COUNTS}")
    height, width = mask.shape
    if abs(width * size[1] / (height * size[0]) - 1) > SHAPE:
        raise UnreadableMask(f"{file.name} is {width}x{height}, of another shape than the photo, {size[0]}x{size[1]}")
    return resized(mask, size)


def counted(mask: np.ndarray | None, size: Size) -> np.ndarray:
    """(H, W) uint8 of (width, height); white where all of it counts."""
    return np.full(size[::-1], COUNTS, np.uint8) if mask is None else resized(mask, size)


def resized(mask: np.ndarray, size: Size) -> np.ndarray:
    """(H, W) uint8 to (width, height): averaged where it shrinks, linear where it grows, never beyond its values."""
    height, width = mask.shape
    if (width, height) == size:
        return mask
    shrinks = width >= size[0] and height >= size[1]
    return cv2.resize(mask, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _key(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))
