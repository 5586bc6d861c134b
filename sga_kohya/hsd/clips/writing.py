"""Frames to the bytes of a file that trainers read as they are: H.264 in MP4, of exactly so many frames."""

import io
from fractions import Fraction
from typing import Any

import numpy as np

from sga_kohya.errors import SgaError
from sga_kohya.hsd.clips.reading import pyav
from sga_kohya.hsd.cut.geometry import Size

MOVIE = "mp4"
CODEC = "libx264"
QUALITY = {"crf": "12", "preset": "veryfast", "x264-params": "cpu-independent=1"}
"""Above 45 dB of PSNR on most clips, about as much again as the source of the same pixels has in a camera's file.
Without cpu-independent the bytes depend on the processor, and with AVX-512 differ from one time to the next."""
BT601, BT709_PRIMARIES, LIMITED = 6, 1, 1
"""The matrix is the one that PyAV's `to_image`, and so musubi-tuner, takes every file for, whatever the file says."""


def check_encoder() -> None:
    """Raises SgaError where PyAV was built without the encoder."""
    av = pyav()
    if CODEC not in av.codecs_available:
        raise SgaError(f"this PyAV {av.__version__} cannot write {CODEC}: install its own wheel, pip install av")


class Movie:
    """A file in the making. Memory holds what the encoder looks ahead, and the bytes that are done."""

    def __init__(self, size: Size, fps: float) -> None:
        av = pyav()
        self._buffer = io.BytesIO()
        self._container = av.open(self._buffer, "w", format=MOVIE)
        rate = Fraction(fps).limit_denominator(1001)
        stream = self._container.add_stream(CODEC, rate=rate, options=dict(QUALITY))
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        # One thread: the bytes must not depend on how many the machine has. Clips are written side by side.
        context.thread_count = 1
        context.colorspace, context.color_range = BT601, LIMITED
        context.color_primaries = context.color_trc = BT709_PRIMARIES
        self._stream, self._av, self._frames = stream, av, 0

    def add(self, pixels: np.ndarray) -> None:
        """(H, W, 3) RGB uint8 of the file's size."""
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(
            format="yuv420p"
        )
        frame.colorspace, frame.color_range = BT601, LIMITED
        frame.pts, self._frames = self._frames, self._frames + 1
        self._mux(frame)

    def _mux(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def close(self) -> bytes:
        self._mux(None)
        self._container.close()
        return self._buffer.getvalue()


def middle_frame(data: bytes, frames: int) -> np.ndarray:
    """(H, W, 3) RGB uint8 of a file that `Movie` wrote, in the middle of its frames, as trainers see it."""
    av = pyav()
    with av.open(io.BytesIO(data)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number == frames // 2:
                found: np.ndarray = frame.to_ndarray(format="rgb24")
                return found
    raise ValueError(f"a clip of fewer than {frames // 2 + 1} frames")
