"""Algorithm 1 of arXiv:2603.10785: what to cut from a photo, at which size, and what to leave out. No files.

`decompose` plans, in boxes and sizes; `render` cuts the pixels of one planned slice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sga_kohya.hsd.config import HsdConfig, LevelConfig
from sga_kohya.hsd.detect import Detection, Detector
from sga_kohya.hsd.geometry import Box, Size, best_aspect_match, centred_box, containment, framing_crop, iou
from sga_kohya.hsd.images import resize


@dataclass(frozen=True)
class Slice:
    """One crop of a photo, kept or discarded.

    box: source pixels; of a kept slice the exported frame, of a discarded one what was detected. score: the
    detector's, None for a whole photo. scale: output pixels per source pixel, above 1 for an upscale. size: exported
    width and height, None when discarded. reason: None when kept, else "kind: details".
    """

    level: str
    box: Box
    score: float | None
    scale: float | None = None
    size: Size | None = None
    reason: str | None = None

    @property
    def kept(self) -> bool:
        return self.reason is None


@dataclass(frozen=True)
class Group:
    """One region of a photo with its slices, coarse to fine: the semantic group of Algorithm 2."""

    slices: tuple[Slice, ...]

    @property
    def kept(self) -> tuple[Slice, ...]:
        return tuple(piece for piece in self.slices if piece.kept)


def decompose(images: Sequence[np.ndarray], detector: Detector, config: HsdConfig) -> list[list[Group]]:
    """Algorithm 1 for a batch of photos, each (H, W, 3) RGB uint8. Returns the groups of each, one per region.

    The finer levels are sought inside the coarsest slice's own frame, so that its box contains theirs.
    """
    coarsest = [[coarsest_slice(region, config) for region in partition(image)] for image in images]
    views = [
        image[piece.box.y0 : piece.box.y1, piece.box.x0 : piece.box.x1]
        for image, pieces in zip(images, coarsest, strict=True)
        for piece in pieces
        if piece.kept
    ]
    found = [detector.detect(views, level.name) if views else [] for level in config.finer]
    per_view = zip(*found, strict=True)
    return [
        [assemble_group(piece, next(per_view), config) if piece.kept else Group((piece,)) for piece in pieces]
        for pieces in coarsest
    ]


def partition(image: np.ndarray) -> list[Box]:
    """Stage 1: the regions of a photo. Whole-image mode: the photo is its only region."""
    return [Box.whole((image.shape[1], image.shape[0]))]


def coarsest_slice(region: Box, config: HsdConfig) -> Slice:
    """The region as a slice of the coarsest level."""
    whole = Detection(region, 1.0, config.coarsest.name)
    return adapt(whole, region, config.coarsest, config.min_size, score=None)


def assemble_group(coarsest: Slice, found: Sequence[Sequence[Detection]], config: HsdConfig) -> Group:
    """Stages 2 and 3 for one region. found: per finer level, the detections in pixels of the coarsest slice's frame."""
    region = coarsest.box
    boxes = {config.coarsest.name: [Detection(region, 1.0, config.coarsest.name)]}
    for level, detections in zip(config.finer, found, strict=True):
        boxes[level.name] = distinct(_inside(region, detections), config.duplicate_overlap)[: level.max_slices]
    redundant = redundancies(boxes, config)
    slices = [
        Slice(level.name, detection.box, detection.score, reason=redundant[detection])
        if detection in redundant
        else adapt(detection, region, level, config.min_size, detection.score)
        for level in config.finer
        for detection in boxes[level.name]
    ]
    reason = redundant.get(boxes[config.coarsest.name][0])
    # A suppressed region comes back when what made it redundant was itself discarded: no photo is lost that way.
    if reason and any(piece.kept for piece in slices):
        coarsest = replace(coarsest, size=None, reason=reason)
    return Group((coarsest, *slices))


def distinct(detections: Sequence[Detection], overlap: float) -> list[Detection]:
    """Stage 2 inside one level: best first, without those of which more than `overlap` is shared with a better one.

    Overlap is containment, which is never below IoU: a face found again inside a looser box is the same face.
    """
    kept: list[Detection] = []
    for detection in sorted(detections, key=lambda d: (-d.score, d.box)):
        if all(containment(detection.box, other.box) <= overlap for other in kept):
            kept.append(detection)
    return kept


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


def adapt(detection: Detection, bounds: Box, level: LevelConfig, min_size: int, score: float | None) -> Slice:
    """Stage 3: discard, downsample, enlarge or cut at its own scale, then frame; in that order.

    The upscale that is needed is held against tau_up, the downscale that is available against tau_down. A crop that
    would need more than tau_up for the level's largest sizes takes a smaller one; it is discarded when none is small
    enough.
    """
    targets = level.targets(min_size)
    reachable = [size for size in targets if _framed(detection, bounds, size)[1] <= level.tau_up]
    if not reachable:
        size, scale = min(((size, _framed(detection, bounds, size)[1]) for size in targets), key=lambda pair: pair[1])
        have = f"{detection.box.width}x{detection.box.height}"
        reason = f"too small: {have} takes {scale:.2f}x to reach {size[0]}x{size[1]}, above tau_up {level.tau_up:g}"
        return Slice(level.name, detection.box, score, scale, reason=reason)
    size = best_aspect_match(detection.box.size, reachable)
    frame, scale = _framed(detection, bounds, size)
    cut_only = frame.width >= size[0] and frame.height >= size[1] and 1 / scale <= level.tau_down
    if cut_only:
        frame, scale = centred_box(frame, frame, size), 1.0
    return Slice(level.name, frame, score, scale, size)


def _framed(detection: Detection, bounds: Box, size: Size) -> tuple[Box, float]:
    """The frame that would become a slice of `size`, and its scale: output pixels per source pixel."""
    frame = framing_crop(detection.box, bounds, size)
    return frame, max(size[0] / frame.width, size[1] / frame.height)


def render(image: np.ndarray, piece: Slice) -> np.ndarray:
    """The pixels of a kept slice, (H, W, 3) RGB uint8 of exactly its size; image: the whole photo."""
    if piece.size is None or piece.scale is None:
        raise ValueError(f"cannot render a discarded slice ({piece.reason})")
    crop = image[piece.box.y0 : piece.box.y1, piece.box.x0 : piece.box.x1]
    return resize(enlarge(crop, piece.size) if piece.scale > 1 else crop, piece.size)


def enlarge(pixels: np.ndarray, size: Size) -> np.ndarray:
    """SuperResolve of Algorithm 1, for a crop below `size`. By Lanczos: smooth, without any detail of its own."""
    return resize(pixels, size)


def _inside(region: Box, detections: Sequence[Detection]) -> list[Detection]:
    """From pixels of the region to pixels of the photo; what a detector puts outside the region is cut off."""
    placed = ((detection, detection.box.shifted(region.x0, region.y0).clipped(region)) for detection in detections)
    return [replace(detection, box=box) for detection, box in placed if box]
