"""A clip's slices: each frame is decoded once and goes, through every box that has it, to the files in the making."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sga_kohya.hsd.clips.colour import to_rgb
from sga_kohya.hsd.clips.grid import Span, on_grid
from sga_kohya.hsd.clips.moving import Thumbnail, View, animation, moving_strip
from sga_kohya.hsd.clips.reading import Clip
from sga_kohya.hsd.clips.writing import Movie
from sga_kohya.hsd.cut.crop import Crop
from sga_kohya.hsd.cut.decompose import render
from sga_kohya.hsd.kits import Kit
from sga_kohya.hsd.photos.images import encode_image


@dataclass(frozen=True)
class Cut:
    """One slice to be written: its file below OUT, its crop, when it is."""

    file: str
    crop: Crop
    span: Span


@dataclass
class Made:
    """Of one group. files: bytes of its slices by name. strip, view: the report's moving pictures."""

    files: dict[str, bytes] = field(default_factory=dict)
    strip: bytes = b""
    view: bytes = b""


class _Slice:
    """One slice in the making."""

    def __init__(self, cut: Cut, kit: Kit, fps: float) -> None:
        self.cut, self._kit, self.thumbnail = cut, kit, Thumbnail(cut.span.frames)
        self._movie = Movie(cut.crop.size or (0, 0), fps) if cut.span.frames > 1 else None
        self._image = b""

    def see(self, place: int, pixels: np.ndarray) -> None:
        number = place - self.cut.span.start
        if not 0 <= number < self.cut.span.frames:
            return
        piece = render(pixels, self.cut.crop, self._kit.upscaler.enlarge)
        self.thumbnail.see(number, piece)
        if self._movie:
            self._movie.add(piece)
        else:
            self._image = encode_image(piece, self._kit.config.format)

    def close(self) -> bytes:
        return self._movie.close() if self._movie else self._image


def make(clip: Clip, kit: Kit, cuts: Sequence[Cut]) -> Made:
    """The slices of one group."""
    fps = kit.config.clip_fps
    start = min(cut.span.start for cut in cuts)
    span = Span(start, max(cut.span.start + cut.span.frames for cut in cuts) - start)
    slices, view = [_Slice(cut, kit, fps) for cut in cuts], View(span.frames)
    for place, frame in on_grid(clip, fps, span):
        pixels = to_rgb(frame, clip.shape)
        view.see(place - start, pixels)
        for piece in slices:
            piece.see(place, pixels)
    files = {piece.cut.file: piece.close() for piece in slices}
    strip = moving_strip([piece.thumbnail for piece in slices], max(cut.span.frames for cut in cuts) / fps)
    return Made(files, strip, animation(view.pictures, span.frames / fps))
