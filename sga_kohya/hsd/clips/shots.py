"""Where a clip's shots begin, by PySceneDetect (BSD-3), fed frame by frame as they are decoded."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sga_kohya.hsd.clips.grid import Span
from sga_kohya.hsd.clips.labels import FEWEST, SHOT
from sga_kohya.kit.extras import library


def scenedetect() -> Any:
    """Raises SgaError that names the extra."""
    return library("scenedetect", "shots", f'clip_shots, and the label "{SHOT}" (or leave both out)')


class Cuts:
    """Of one window: hand in its frames in order."""

    def __init__(self, fps: float) -> None:
        self.fps, self._library = fps, scenedetect()
        self._detector = self._library.AdaptiveDetector(min_scene_len=FEWEST)

    def seen(self, place: int, pixels: np.ndarray) -> list[int]:
        """The frames that are known by now to begin a shot. pixels: (H, W, 3) RGB uint8."""
        time = self._library.FrameTimecode(place, fps=self.fps)
        cuts = self._detector.process_frame(time, np.ascontiguousarray(pixels[..., ::-1]))
        return [cut.frame_num for cut in cuts]


def longest_shot(window: Span, cuts: Sequence[int]) -> Span:
    """The part of the window between two cuts that is longest, the earliest of those."""
    end = window.start + window.frames
    edges = [window.start, *(cut for cut in cuts if window.start < cut < end), end]
    return max((Span(a, b - a) for a, b in zip(edges, edges[1:], strict=False)), key=lambda span: span.frames)
