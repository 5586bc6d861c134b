"""Algorithm 1 of arXiv:2603.10785: what to cut from a photo, at which size, and what to leave out. No files.

`decompose` plans, in boxes and sizes; `render` cuts the pixels of one planned crop.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from sga_kohya.hsd.cut.crop import Crop
from sga_kohya.hsd.cut.geometry import (
    Box,
    Size,
    best_aspect_match,
    centred_box,
    containment,
    framed_size,
    framing_crop,
    iou,
)
from sga_kohya.hsd.cut.nesting import nested, widened
from sga_kohya.hsd.cut.quality import CROP_FILTERS
from sga_kohya.hsd.cut.strips import strips
from sga_kohya.hsd.detect import Detection, Detector, View
from sga_kohya.hsd.photos.images import resize
from sga_kohya.hsd.settings.config import HsdConfig, LevelConfig

DUPLICATE, SURPLUS = "duplicate", "surplus"
"""Kinds of discards that say nothing against the photo: what they show is there already, or more than was asked for."""
ITS_OWN = 0.4
"""Area, as a share of the box around it, below which a thing of the same kind is one of its own."""
A_LITTLE = 1.1
"""Upscale that is always allowed to a photo that would otherwise be lost."""
ROOM = 1.5
"""How much of the surroundings a level of its own scale takes in rather than enlarge a box, over the box's sides."""


@dataclass(frozen=True)
class Choice:
    """What is used of one level's detections, best first, and what is not, with the reason."""

    chosen: list[Detection]
    discards: list[Crop] = field(default_factory=list)


@dataclass(frozen=True)
class Region:
    """One region of a photo with its crops, coarse to fine: the semantic group of Algorithm 2, `group` of the manifest.

    seen: everything that was detected in the region, cut or not, in source pixels.
    """

    crops: tuple[Crop, ...]
    seen: tuple[Detection, ...] = ()


def decompose(photos: Sequence[tuple[str, np.ndarray]], detector: Detector, config: HsdConfig) -> list[list[Region]]:
    """Algorithm 1 for a batch of photos: source, (H, W, 3) RGB uint8. Returns the regions of each.

    The finer levels are sought inside the coarsest crop's own frame, so that its box contains theirs.
    """
    wholes = [_view(source, image, _whole(image)) for source, image in photos]
    choices = partition(wholes, detector, config)
    coarsest = [
        [coarsest_crop(place, view.box, config) for place in choice.chosen]
        for view, choice in zip(wholes, choices, strict=True)
    ]
    kept = [
        (source, image, crop.box)
        for (source, image), crops in zip(photos, coarsest, strict=True)
        for crop in crops
        if crop.kept
    ]
    views = [_view(*place) for place in kept]
    found = [detector.detect(views, level.name) if views else [] for level in config.finer]
    per_view = zip((image for _, image, _ in kept), *found, strict=True)
    return [
        [
            *(assemble_region(crop, config, *next(per_view)) if crop.kept else Region((crop,)) for crop in crops),
            *(Region((crop,)) for crop in choice.discards),
        ]
        or [Region((nothing_found(view.box, detector, config),))]
        for view, crops, choice in zip(wholes, coarsest, choices, strict=True)
    ]


def partition(wholes: Sequence[View], detector: Detector, config: HsdConfig) -> list[Choice]:
    """Stage 1: the regions of each photo, best first.

    Whole-image mode: the photo is its only region, unless it is too long for any size. Split mode: what is detected
    for the coarsest level.
    """
    level = config.coarsest
    if config.mode == "whole":
        targets = level.targets(config.min_size)
        return [Choice([Detection(box, 1.0, level.name) for box in strips(view.pixels, targets)]) for view in wholes]
    found = detector.detect(wholes, level.name) if wholes else []
    return [
        choose(_placed(view.box, level, detections), config.duplicate_overlap, level.max_slices)
        for view, detections in zip(wholes, found, strict=True)
    ]


def coarsest_crop(place: Detection, photo: Box, config: HsdConfig) -> Crop:
    """A region's own crop, of the coarsest level; its frame may reach beyond the region, inside the photo.

    One that misses the smallest size by a little is enlarged by that little, whatever tau_up says.
    """
    score = None if config.mode == "whole" else place.score
    return lenient(place, photo, config.coarsest, config.min_size, score)


def lenient(place: Detection, bounds: Box, level: LevelConfig, min_size: int, score: float | None) -> Crop:
    """As `adapt`, with that little."""
    crop = adapt(place, bounds, level, min_size, score)
    if crop.kept or level.tau_up >= A_LITTLE:
        return crop
    nearly = adapt(place, bounds, replace(level, tau_up=A_LITTLE), min_size, score)
    return nearly if nearly.kept else crop


def nothing_found(photo: Box, detector: Detector, config: HsdConfig) -> Crop:
    """The discard that stands for a photo without any region."""
    reason = f"no region: {detector.name} found no {config.coarsest.name} in it"
    return Crop(config.coarsest.name, photo, None, reason=reason)


def assemble_region(coarsest: Crop, config: HsdConfig, image: np.ndarray, *found: Sequence[Detection]) -> Region:
    """Stages 2 and 3 for one region.

    image: the whole photo. found: per finer level, the detections in pixels of the coarsest crop's frame.
    """
    frame = coarsest.box
    tried: dict[Detection, Crop] = {}

    def crop_of(detection: Detection, level: LevelConfig, rooms: Sequence[Box] = (frame,)) -> Crop:
        """Once for each detection, unless it has to lie in less room than before."""
        known = tried.get(detection)
        room = next(room for room in rooms if detection.box.inside(room))
        if known is None or not (known.kept and known.box.inside(room)):
            tried[detection] = make_crop(detection, rooms, level, config, image)
        return tried[detection]

    choices = {}
    for level, detections in zip(config.finer, found, strict=True):
        placed = _placed(frame, level, detections)
        choices[level.name] = choose(placed, config.duplicate_overlap, level.max_slices, partial(crop_of, level=level))
    boxes = nested({name: choice.chosen for name, choice in choices.items()})
    boxes[config.coarsest.name] = [Detection(frame, 1.0, config.coarsest.name)]
    redundant = redundancies(boxes, config)
    crops: list[Crop] = []
    for level in config.finer:
        rooms = (*(crop.box for crop in reversed(crops) if crop.kept and crop.level != level.name), frame)
        crops += [
            _discard(detection, redundant[detection]) if detection in redundant else crop_of(detection, level, rooms)
            for detection in boxes[level.name]
        ]
        crops += choices[level.name].discards
    reason = redundant.get(boxes[config.coarsest.name][0])
    # A suppressed region comes back when what made it redundant was itself discarded: no photo is lost that way.
    if reason and any(crop.kept for crop in crops):
        coarsest = replace(coarsest, size=None, reason=reason)
    return Region((coarsest, *crops), tuple(seen for detections in found for seen in _inside(frame, detections)))


def make_crop(
    detection: Detection, rooms: Sequence[Box], level: LevelConfig, config: HsdConfig, image: np.ndarray
) -> Crop:
    """The crop of a detection, discarded where it is too small or a filter has a reason.

    rooms: what its frame may take in, finer before coarser; the first counts that holds the whole of it and in which it
    is large enough. The last is the region.
    """
    own = replace(level, own_scale=level.own_scale and config.upscale_model is None)
    holding = [room for room in rooms if detection.box.inside(room)]
    tries = (adapt(detection, room, own, config.min_size, detection.score) for room in holding)
    crop = next((crop for crop in tries if crop.kept), None)
    if crop is None:
        return adapt(detection, rooms[-1], own, config.min_size, detection.score)
    pixels = image[crop.box.y0 : crop.box.y1, crop.box.x0 : crop.box.x1]
    reason = next((reason for reason in (judge(pixels, crop, level) for judge in CROP_FILTERS) if reason), None)
    return replace(_discard(detection, reason), scale=crop.scale) if reason else crop


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
            choice.discards.append(_discard(detection, reason))
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
        choice.discards.append(_discard(surplus[0], reason))
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


def _discard(detection: Detection, reason: str) -> Crop:
    return Crop(
        detection.level, detection.box, detection.score, None, None, detection.label, detection.found_by, reason
    )


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


def adapt(detection: Detection, bounds: Box, level: LevelConfig, min_size: int, score: float | None) -> Crop:
    """Stage 3: discard, downsample, enlarge or cut at its own scale, then frame; in that order.

    The upscale that is needed is held against tau_up, the downscale that is available against tau_down. A crop that
    would need more than tau_up for the level's largest sizes takes a smaller one; it is discarded when none is small
    enough. A level of its own scale takes a size that needs no upscale where there is one, and the surroundings of a
    box that is a little too small for that.
    """
    box = _roomy(detection.box, bounds, min_size) if level.own_scale else detection.box
    own, room = box.size, bounds.size
    scales = {size: _scale(framed_size(own, room, size), size) for size in level.targets(min_size)}
    reachable = [size for size, scale in scales.items() if scale <= level.tau_up]
    if not reachable:
        size, scale = min(scales.items(), key=lambda pair: pair[1])
        have = f"{box.width}x{box.height}"
        reason = f"too small: {have} takes {scale:.2f}x to reach {size[0]}x{size[1]}, above tau_up {level.tau_up:g}"
        return replace(_discard(detection, reason), score=score, scale=scale)
    unenlarged = [size for size in reachable if scales[size] <= 1] if level.own_scale else []
    size = best_aspect_match(box.size, unenlarged or reachable)
    frame, scale = framing_crop(box, bounds, size), scales[size]
    cut_only = frame.width >= size[0] and frame.height >= size[1] and 1 / scale <= level.tau_down
    if cut_only:
        frame, scale = centred_box(frame, frame, size), 1.0
    return Crop(level.name, frame, score, scale, size, detection.label, detection.found_by)


def _roomy(box: Box, bounds: Box, side: int) -> Box:
    """The box, grown around its middle towards sides of `side` pixels, up to ROOM times what they are."""
    width, height = (max(length, min(side, round(ROOM * length))) for length in box.size)
    return centred_box(box, bounds, (min(width, bounds.width), min(height, bounds.height)))


def _scale(frame: Size, size: Size) -> float:
    """Output pixels per source pixel of a frame that becomes a crop of `size`."""
    return max(size[0] / frame[0], size[1] / frame[1])


def render(image: np.ndarray, crop: Crop, enlarge: Callable[[np.ndarray, Size], np.ndarray] = resize) -> np.ndarray:
    """The pixels of a kept crop, (H, W, 3) RGB uint8 of exactly its size; image: the whole photo.

    enlarge: SuperResolve of Algorithm 1, called only for a crop below its size.
    """
    if crop.size is None or crop.scale is None:
        raise ValueError(f"cannot render a discarded crop ({crop.reason})")
    pixels = image[crop.box.y0 : crop.box.y1, crop.box.x0 : crop.box.x1]
    return enlarge(pixels, crop.size) if crop.scale > 1 else resize(pixels, crop.size)


def _whole(image: np.ndarray) -> Box:
    return Box.whole((image.shape[1], image.shape[0]))


def _view(source: str, image: np.ndarray, box: Box) -> View:
    return View(image[box.y0 : box.y1, box.x0 : box.x1], source, box, _whole(image).size)


def _placed(frame: Box, level: LevelConfig, detections: Sequence[Detection]) -> list[Detection]:
    """In pixels of the photo, with the level's margin around them."""
    return [
        replace(detection, box=widened(detection.box, level.margin, frame)) for detection in _inside(frame, detections)
    ]


def _inside(frame: Box, detections: Sequence[Detection]) -> list[Detection]:
    """From pixels of a frame to pixels of the photo; what a detector puts outside the frame is cut off."""
    placed = ((detection, detection.box.shifted(frame.x0, frame.y0).clipped(frame)) for detection in detections)
    return [replace(detection, box=box) for detection, box in placed if box]
