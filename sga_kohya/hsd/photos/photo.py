"""One source on its way from the file to its slices."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sga_kohya.hsd.captioners.captioner import INHERIT
from sga_kohya.hsd.cut.geometry import Size
from sga_kohya.hsd.kits import Kit
from sga_kohya.hsd.out.manifest import Origin, Row
from sga_kohya.hsd.photos.captions import Caption


@dataclass(frozen=True)
class Photo:
    """One source as loaded. source: below PHOTOS, '/' separators. kit: what it is cut with.

    finished: the rows of an earlier run from the same inputs, whose files are all there; pixels are then None. With a
    problem: the rows of an earlier run of a file that cannot be opened now. taken: by another process of this run, its
    captions too. pixels: (H, W, 3) RGB uint8, None also with a problem. view: of them, a JPEG for the report. mask:
    (H, W) uint8, None where all of the photo counts. size: width and height. problem: why it cannot be read, "kind:
    details".
    """

    source: str
    root: str
    kit: Kit
    caption: Caption = Caption("")
    sha256: str | None = None
    size: Size | None = None
    inputs: str | None = None
    phash: str | None = None
    notes: Sequence[str] = ()
    pixels: np.ndarray | None = None
    view: bytes = b""
    mask: np.ndarray | None = None
    problem: str = ""
    finished: Sequence[Row] = ()
    taken: bool = False

    @property
    def memory(self) -> int:
        """Bytes of its pixels and mask."""
        return sum(array.nbytes for array in (self.pixels, self.mask) if array is not None)

    @property
    def unanswered(self) -> bool:
        """Whether its detector could not say what is on it."""
        return self.source in getattr(self.kit.detector, "unanswered", ())

    @property
    def origin(self) -> Origin:
        return Origin(
            root=self.root,
            source=self.source,
            source_sha256=self.sha256,
            source_size=self.size,
            inputs=self.inputs,
            phash=self.phash,
            notes=self.notes,
            guessed_caption=self.caption.text if self.caption.guessed and self.kit.config.captioner == INHERIT else "",
        )
