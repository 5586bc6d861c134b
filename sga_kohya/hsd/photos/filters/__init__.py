"""Why a photo is left out before anything is sought in it.

A filter is a function of a photo: it returns "kind: details" for one that is left out, None for one that stays. The
reason goes to the photo's row in the manifest, its kind is counted in summary and report. A further one is a file here
and an entry in FILTERS.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from sga_kohya.hsd.cut.quality import CROP_FILTERS
from sga_kohya.hsd.photos.filters.near_duplicates import NearDuplicates
from sga_kohya.hsd.photos.filters.too_small import too_small
from sga_kohya.hsd.photos.filters.unreadable import unreadable
from sga_kohya.hsd.photos.photo import Photo
from sga_kohya.hsd.settings.config import HsdConfig

Filter = Callable[[Photo], str | None]

FILTERS: list[Filter] = [too_small]
"""Of one photo alone, which is readable and has pixels. Asked by one thread: look at a small copy (`scaling.shrink`).

Their names are part of what a photo's rows depend on: with another list, finished photos are done again.
"""


@runtime_checkable
class Comparing(Protocol):
    """A filter that holds photos against those before them, and is therefore asked about finished photos, too."""

    kind: str
    """Of its reasons."""

    def __call__(self, photo: Photo) -> str | None: ...

    def alike(self, photo: Photo, earlier: Photo) -> bool:
        """Whether the answer for `photo` hangs on what becomes of an earlier one that has yet to be looked into."""
        ...

    def used(self, photo: Photo) -> None:
        """This photo gives slices."""
        ...


def make_filters(config: HsdConfig) -> list[Filter]:
    """Those of one run, in the order in which they are asked; the first that has a reason is heard."""
    return [unreadable, NearDuplicates(config.near_duplicates), *FILTERS]


def reason_against(photo: Photo, filters: Sequence[Filter]) -> str | None:
    """The first reason to leave a photo out, None for none."""
    return next((reason for reason in (judge(photo) for judge in filters) if reason), None)


def filter_names() -> list[str]:
    """Of the filters of photos and of those of crops."""
    return [getattr(judge, "__name__", type(judge).__name__) for judge in (*FILTERS, *CROP_FILTERS)]
