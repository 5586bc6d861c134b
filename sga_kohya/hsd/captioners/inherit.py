"""The captioner `inherit`: a slice is trained on its photo's caption, less what it does not show. It adds no words."""

from collections.abc import Sequence
from pathlib import Path

from sga_kohya.hsd.captioners.captioner import INHERIT, Slice
from sga_kohya.hsd.detectors.options import Options


class Inherit:
    name = INHERIT

    def describe(self, slices: Sequence[Slice]) -> list[str | None]:
        return [""] * len(slices)


def create(options: Options, photos: Path) -> Inherit:
    options.finish()
    return Inherit()
