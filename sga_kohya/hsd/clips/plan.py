"""What is cut from a clip: Algorithm 1 on frames of each of its parts, and what becomes of that by decisions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

import numpy as np

from sga_kohya.hsd.clips.grid import Span, length, windows
from sga_kohya.hsd.clips.labels import BOTH, SHOT, SPATIAL, longest
from sga_kohya.hsd.clips.levels import of_clips, product, spatial
from sga_kohya.hsd.clips.looking import look, pick, sharpness
from sga_kohya.hsd.clips.moments import moments
from sga_kohya.hsd.clips.reading import Clip
from sga_kohya.hsd.clips.shots import Cuts, longest_shot
from sga_kohya.hsd.clips.through import Through
from sga_kohya.hsd.cut.crop import Crop
from sga_kohya.hsd.cut.decompose import Region, decompose, lenient
from sga_kohya.hsd.cut.geometry import Box
from sga_kohya.hsd.detect import Detection, Detector
from sga_kohya.hsd.settings.config import HsdConfig

AROUND = 4
"""How far around a window a shot is sought, over the window's length."""
KEY_FRAMES = 5
"""Frames in which a detector looks for one box, from the first to the last."""


@dataclass(frozen=True)
class Part:
    """One group of a clip. spans: by level, when its slices are; of spatial slices all at once. cut: whether there
    seems to be one inside."""

    region: Region
    spans: Mapping[str, Span] = field(default_factory=dict)
    cut: bool = False


def parts(clip: Clip, source: str, detector: Detector, config: HsdConfig) -> Iterator[Part]:
    """The groups of a clip, in time; none where it has too few frames. config: that of photos.

    Holds the key frames of one part at a time.
    """
    planned = _spatial if config.clips == SPATIAL else _temporal
    wanted = config.clip_frames if config.clips == SPATIAL else config.clip_labels[0].frames
    for window in windows(length(clip, config.clip_fps), wanted, config.clip_segments):
        yield from planned(clip, source, detector, config, window)


def _spatial(clip: Clip, source: str, detector: Detector, config: HsdConfig, window: Span) -> Iterator[Part]:
    if config.clip_shots:
        window = _within_a_shot(clip, config, window)
    picked = pick(clip, config.clip_fps, window, window.spread(KEY_FRAMES))
    if picked.frames < window.frames:  # damaged in its middle
        window = Span(window.start, longest(window.frames, picked.frames))
        picked = pick(clip, config.clip_fps, window, window.spread(KEY_FRAMES))
    if window.frames:
        own = of_clips(config)
        for region in _regions(picked.pictures, source, detector, own):
            yield Part(region, dict.fromkeys((level.name for level in own.levels), window), picked.cut)


def _within_a_shot(clip: Clip, config: HsdConfig, window: Span) -> Span:
    """The middle of the longest shot in what is around a window, as long as that allows, at most as long as it is."""
    there = length(clip, config.clip_fps)
    room = Span(0, there).around(window.start + window.frames // 2, min(there, AROUND * window.frames))
    seen = look(clip, config.clip_fps, room, Cuts(config.clip_fps))
    shot = longest_shot(Span(room.start, seen.frames), seen.cuts)
    frames = longest(window.frames, shot.frames)
    return shot.around(shot.start + shot.frames // 2, frames) if frames else Span(room.start, 0)


def _temporal(clip: Clip, source: str, detector: Detector, config: HsdConfig, window: Span) -> Iterator[Part]:
    labels, fps = config.clip_labels, config.clip_fps
    if config.clip_shots:
        window = _within_a_shot(clip, config, window)
    cuts = Cuts(fps) if SHOT in (label.name for label in labels) else None
    seen = look(clip, fps, window, cuts)
    window = Span(window.start, longest(labels[0].frames, seen.frames))
    if not window.frames:
        return
    spans = moments(window, labels, seen)
    if config.clips == BOTH:
        yield from _both(clip, source, detector, config, spans)
    else:
        yield Part(Region(tuple(_whole(clip, config, spans))), spans)


def _whole(clip: Clip, config: HsdConfig, spans: Mapping[str, Span]) -> Iterator[Crop]:
    """The whole picture at each label's own size."""
    own = of_clips(config)
    for level in own.levels:
        if level.name in spans:
            whole = Box.whole(clip.size)
            yield lenient(Detection(whole, 1.0, level.name), whole, level, own.min_size, None)


def _both(clip: Clip, source: str, detector: Detector, config: HsdConfig, spans: Mapping[str, Span]) -> Iterator[Part]:
    """Each span with boxes of its own: what is in one place for a moment may be anywhere in a long clip."""
    found: list[list[Region]] = []
    times: dict[str, Span] = {}
    for label in config.clip_labels:
        if label.name not in spans:
            continue
        span, own = spans[label.name], replace(spatial(config, label.resolution), mode="whole")
        pictures = pick(clip, config.clip_fps, span, span.spread(KEY_FRAMES)).pictures
        found.append([_renamed(region, label.name) for region in _regions(pictures, source, detector, own)])
        times |= {product(label.name, level.name): span for level in own.levels}
    for regions in zip_longest(*found):
        there = [region for region in regions if region]
        crops = tuple(crop for region in there for crop in region.crops)
        yield Part(Region(crops, tuple(thing for region in there for thing in region.seen)), times)


def _renamed(region: Region, label: str) -> Region:
    return replace(region, crops=tuple(replace(crop, level=product(label, crop.level)) for crop in region.crops))


def _regions(
    pictures: Mapping[int, np.ndarray], source: str, detector: Detector, config: HsdConfig
) -> Sequence[Region]:
    """Algorithm 1 on the sharpest of the key frames, with boxes that hold what they show in all of them."""
    best = max(pictures.values(), key=sharpness)
    return decompose([(source, best)], Through(detector, pictures), config)[0]
