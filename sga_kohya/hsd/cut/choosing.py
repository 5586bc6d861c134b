"""Stage 2 of Algorithm 1: which detections are used, inside one level and across levels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sga_kohya.hsd.cut.crop import Crop, discarded
from sga_kohya.hsd.cut.geometry import containment, iou
from sga_kohya.hsd.detect import Detection
from sga_kohya.hsd.settings.config import HsdConfig

DUPLICATE, SURPLUS = "duplicate", "surplus"
"""Kinds of discards that say nothing against the photo: what they show is there already, or more than was asked for."""
ITS_OWN = 0.4
"""Area, as a share of the box around it, below which a thing of the same kind is one of its own."""


@dataclass(frozen=True)
class Choice:
    """What is used of one level's detections, best first, and what is not, with the reason."""

    chosen: list[Detection]
    discards: list[Crop] = field(default_factory=list)


def choose(
    detections: Sequence[Detection],
    overlap: float,
    count: int,
    tried: Callable[[Detection], Crop] | None = None,
) -> Choice:
    """Stage 2 inside one level: the best `count` detections, without those that show again what a better one shows.

    tried: the crop of a detection; where it is a discard, the next best takes its place. What is above the count has
    one row that tells how much it is: detectors find dozens.
    """
    choice, surplus, unfit = Choice([]), [], []
    for detection in sorted(detections, key=lambda d: (-d.score, -d.box.area, d.box)):
        twin = next((other for other in choice.chosen if same_thing(detection, other, overlap)), None)
        if twin is not None:
            shared = (
                f"IoU {iou(detection.box, twin.box):.2f}, {containment(detection.box, twin.box):.0%} of the smaller"
            )
            reason = f"{DUPLICATE}: {shared} shared with a better {twin.label or twin.level}"
            choice.discards.append(discarded(detection, reason))
        elif len(choice.chosen) == count:
            surplus.append(detection)
        elif tried and not (crop := tried(detection)).kept:
            unfit.append((detection, crop))
        else:
            choice.chosen.append(detection)
    # Only as many as are missing count against the photo.
    missing = count - len(choice.chosen)
    choice.discards.extend(crop for _, crop in unfit[:missing])
    surplus = [detection for detection, _ in unfit[missing:]] + surplus
    if surplus:
        reason = f"{SURPLUS}: {len(surplus)} more than max_slices {count}, this the best"
        choice.discards.append(discarded(surplus[0], reason))
    return choice


def same_thing(a: Detection, b: Detection, overlap: float) -> bool:
    """Whether two boxes of one level show one thing twice.

    They do above an IoU of `overlap`, whatever they are taken for. Where they are taken for the same, containment,
    which is never below IoU, may say so too: a face found again inside a looser box is the same face. But a thing much
    smaller than the one of its own kind around it is another, as a child in its mother's arms is; only where the
    detector has no names for things is nothing known of it but that it lies inside.
    """
    if iou(a.box, b.box) > overlap:
        return True
    small, large = sorted((a.box.area, b.box.area))
    alike = a.label.casefold() == b.label.casefold() and (not a.label or small >= ITS_OWN * large)
    return alike and containment(a.box, b.box) > overlap


def redundancies(boxes: Mapping[str, Sequence[Detection]], config: HsdConfig) -> dict[Detection, str]:
    """Stage 2 across levels: the detections that a finer one makes redundant, with the reason.

    Runs from fine to coarse: a detection that is itself suppressed suppresses nothing.
    """
    suppressed: dict[Detection, str] = {}
    names = [level.name for level in config.levels]
    for i in reversed(range(len(names) - 1)):
        finer = [d for name in names[i + 1 :] for d in boxes[name] if d not in suppressed]
        for detection in boxes[names[i]]:
            for other in finer:
                threshold = config.iou_thresholds.get((names[i], other.level))
                overlap = iou(detection.box, other.box)
                if threshold is not None and overlap > threshold:
                    suppressed[detection] = f"redundant: IoU {overlap:.2f} with {other.level} is above {threshold:g}"
                    break
    return suppressed
