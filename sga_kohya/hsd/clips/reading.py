"""Reading clips: what a file says of itself, and its frames one after the other, each with its time.

Memory holds one frame, whatever the length. Every library error is a `Damage` or an end: files are strangers'.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from sga_kohya.hsd.clips import hdr
from sga_kohya.hsd.clips.colour import Shape, has_alpha, quarter_turns
from sga_kohya.hsd.cut.geometry import Size
from sga_kohya.kit.extras import library

FIRST_SEEK = 1.0
"""Seconds into a clip below which it is read from its beginning."""
WHOLE = 0.98
"""Share of the frames that a file says it has below which it is said to be cut short."""


class Damage(Exception):
    """A file is no clip that can be read; the message says why."""


@dataclass(frozen=True)
class Clip:
    """A file as it says it is, and what a user should know of it. size: upright, in square pixels. first: the first
    frame's time in the file's own count, and last: the last one's; frames: how many there are; fps: in the mean."""

    path: Path
    size: Size
    shape: Shape
    first: float
    last: float
    frames: int
    fps: float
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """From the first frame's beginning to the last one's end."""
        return self.last - self.first + 1 / self.fps


def pyav(purpose: str = "reading clips") -> Any:
    """Raises SgaError that names the extra."""
    return library("av", "video", purpose, "av")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Container and video stream. Raises Damage."""
    av = pyav()
    try:
        container = av.open(str(path), metadata_errors="ignore")
    except (av.error.FFmpegError, ValueError, OSError) as error:
        if isinstance(error, PermissionError | FileNotFoundError):
            raise
        raise Damage(f"no container that can be read ({_why(error)})") from None
    with container:
        # Covers of audio files are streams of one picture.
        streams = [stream for stream in container.streams.video if not _is_cover(stream)]
        if not streams:
            raise Damage("no video in it" + (", only sound" if container.streams.audio else ""))
        streams[0].thread_type = "AUTO"
        yield container, streams[0]


def _is_cover(stream: Any) -> bool:
    return bool(getattr(stream, "disposition", None) and "attached_pic" in str(stream.disposition)) or (
        stream.codec_context is not None and stream.codec_context.name in ("mjpeg", "png") and stream.frames == 1
    )


def _why(error: BaseException) -> str:
    """Without the path, which the row has."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:120]


def examine(path: Path) -> Clip:
    """Reads all of the file's index, decodes one frame. Raises Damage."""
    with _opened(path) as (container, stream):
        first, last, count = _times(container, stream)
        # Nothing of a stream may be asked once its container is closed.
        said, aspect = stream.frames, stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1
        transfer = int(stream.codec_context.color_trc or 0)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    if not count:
        raise Damage("no frames in it")
    frame = next((frame for _, frame in _decoded(path, None)), None)
    if frame is None:
        raise Damage("none of its frames can be decoded")
    shape = _shape(frame, float(aspect), transfer)
    fps = (count - 1) / (last - first) if last > first and count > 1 else float(rate)
    notes = tuple(_notes(frame, said, count, transfer))
    return Clip(path, shape.upright((frame.width, frame.height)), shape, first, last, count, fps, notes)


def _times(container: Any, stream: Any) -> tuple[float, float, int]:
    """The earliest and the latest frame's time, and how many packets there are; a file's damaged end is its end."""
    first, last, count = float("inf"), float("-inf"), 0
    step = float(1 / (stream.average_rate or 25))
    with suppress(pyav().error.FFmpegError):
        for packet in container.demux(stream):
            if packet.size:
                stamp = packet.pts if packet.pts is not None else packet.dts
                time = count * step if stamp is None else float(stamp * stream.time_base)
                first, last, count = min(first, time), max(last, time), count + 1
    return first, last, count


def _shape(frame: Any, aspect: float, transfer: int) -> Shape:
    turns = 0
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            turns = quarter_turns(bytes(data))
    return Shape(turns, aspect if 0.1 < aspect < 10 else 1.0, transfer)


def _notes(frame: Any, said: int, count: int, transfer: int) -> Iterator[str]:
    if count < WHOLE * said:
        yield "cut short: frames are missing at its end"
    if has_alpha(frame.format):
        yield "transparency laid on white"
    if transfer in hdr.NAMES:
        yield f"high dynamic range ({hdr.NAMES[transfer]}) brought to that of usual screens"
    if frame.interlaced_frame:
        yield "interlaced: edges that move are combed; deinterlace it first"


def _decoded(path: Path, start: float | None) -> Iterator[tuple[float | None, Any]]:
    """(time in the file's own count, frame); from the key frame before `start`, None for the beginning.

    What cannot be decoded is left out, as every player does.
    """
    av = pyav()
    with _opened(path) as (container, stream):
        if start is not None:
            container.seek(int(start / stream.time_base), stream=stream)
        with suppress(av.error.FFmpegError):
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.error.FFmpegError:
                    continue
                for frame in frames:
                    if not frame.is_corrupt:
                        yield None if frame.pts is None else float(frame.pts * stream.time_base), frame


def frames(clip: Clip, start: float = 0.0) -> Iterator[tuple[float, Any]]:
    """(seconds since the clip's first frame, frame) in order, from the last frame at or before `start` on, if that can
    be found by seeking, else from the beginning. Those that go back in time are left out."""
    if start >= FIRST_SEEK:
        found = _in_order(clip, start + clip.first)
        time, frame = next(found, (start + 1, None))
        if time <= start:
            yield time, frame
            yield from found
            return
    yield from _in_order(clip, None)


def _in_order(clip: Clip, start: float | None) -> Iterator[tuple[float, Any]]:
    before, step = float("-inf"), 1 / clip.fps
    for stamp, frame in _decoded(clip.path, start):
        time = (max(before, -step) + step) if stamp is None else stamp - clip.first
        if time > before:
            before = time
            yield time, frame
