"""What is planned for one slice."""

from dataclasses import dataclass

from sga_kohya.hsd.cut.geometry import Box, Size
from sga_kohya.hsd.detect import Detection


@dataclass(frozen=True)
class Crop:
    """What is planned to be cut from a photo, or was discarded. A kept one becomes a slice, a file of its level.

    box: source pixels; of a kept crop the exported frame, of a discarded one what was detected. score: the
    detector's, None for a whole photo. scale: output pixels per source pixel, above 1 for an upscale. size: exported
    width and height, None when discarded, unless a person did that. label: what the detector took it for. detector:
    which of several found it, "" for the only one. reason: None when kept, else "kind: details". decided: the place
    of review/decisions.py that says so, drawn: that has its box.
    """

    level: str
    box: Box
    score: float | None
    scale: float | None = None
    size: Size | None = None
    label: str = ""
    detector: str = ""
    reason: str | None = None
    decided: str = ""
    drawn: bool = False

    @property
    def kept(self) -> bool:
        return self.reason is None


def discarded(detection: Detection, reason: str) -> Crop:
    return Crop(
        detection.level, detection.box, detection.score, None, None, detection.label, detection.found_by, reason
    )
