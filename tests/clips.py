"""Clips made on the spot: a red square on a grey picture, whose place in each frame is known."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sga_kohya.hsd import Box, Detection, Options, View
from sga_kohya.hsd.detect import DETECTORS

SIZE = (320, 192)
SIDE = 60
RED = (220, 30, 30)


def picture(number: int, size: tuple[int, int] = SIZE, step: int = 2) -> np.ndarray:
    """The square's left edge is at 20 + step * number; what is around it is rough, so that there is detail."""
    width, height = size
    rough = np.random.default_rng(0).integers(60, 160, (height // 4 + 1, width // 4 + 1), np.uint8)
    pixels = np.repeat(rough.repeat(4, 0).repeat(4, 1)[:height, :width, None], 3, 2)
    x = min(20 + step * number, width - SIDE)
    pixels[40 : 40 + SIDE, x : x + SIDE] = RED
    pixels[60:80, x + 20 : x + 40] = (30, 30, 220)
    return pixels


def write(
    path: Path,
    frames: int = 60,
    fps: float = 16,
    size: tuple[int, int] = SIZE,
    draw: Callable[[int], np.ndarray] | None = None,
    codec: str = "libx264",
    form: str = "yuv420p",
    times: Sequence[float] | None = None,
    **settings: object,
) -> Path:
    """times: of each frame in seconds, where they are not even. settings: of the codec's context."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height = size
        stream.pix_fmt = form
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray((draw or (lambda n: picture(n, size)))(number), format="rgb24")
            frame.time_base = Fraction(1, 1000)
            frame.pts = round(1000 * (times[number] if times else number / fps))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read(path: Path) -> np.ndarray:
    """(frames, H, W, 3) as musubi-tuner reads it."""
    with av.open(str(path)) as container:
        return np.stack([np.asarray(frame.to_image()) for frame in container.decode(video=0)])


class Red:
    """Finds the red square, for meso with as much around it on every side, and counts how often it was asked."""

    name = "red"
    asked = 0

    def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
        Red.asked += len(views)
        return [list(_red(view.pixels, level)) for view in views]


def _red(pixels: np.ndarray, level: str):
    found = (pixels[..., 0] > 150) & (pixels[..., 1] < 100)
    if found.any():
        ys, xs = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
        room = SIDE if level == "meso" else 0
        box = Box(int(xs[0]) - room, int(ys[0]) - room, int(xs[-1]) + 1 + room, int(ys[-1]) + 1 + room)
        yield Detection(box.clipped(Box.whole((pixels.shape[1], pixels.shape[0]))), 0.9, level, "square")


def _create(options: Options, photos: Path) -> Red:
    options.finish()
    return Red()


@contextmanager
def known() -> Iterator[None]:
    """The detector `red` is registered meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DETECTORS, "red", _create)
        yield
