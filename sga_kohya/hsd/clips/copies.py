"""Clips that are there more than once, byte for byte.

Not by what their frames look like, as photos: parts of one quiet shot are as like each other as a clip is like itself
saved again, and data sets are often made of such parts.
"""

from sga_kohya.hsd.out.manifest import NEAR_DUPLICATE
from sga_kohya.hsd.photos.photo import Photo


class Copies:
    """Leaves out clips that are the same file as one that gives slices; the first stays. As `Comparing`."""

    kind = NEAR_DUPLICATE

    def __init__(self, sought: bool) -> None:
        self._sought = sought
        self._firsts: dict[str, str] = {}

    def __call__(self, photo: Photo) -> str | None:
        first = self._firsts.get(photo.sha256 or "")
        return f"{self.kind}: the same file as {first}" if self._sought and first else None

    def used(self, photo: Photo) -> None:
        if photo.sha256:
            self._firsts.setdefault(photo.sha256, photo.source)
