"""Algorithm 1 of arXiv:2603.10785: what to cut from a photo, at which size, and what to leave out. No files.

`decompose` plans, in boxes and sizes; `render` cuts the pixels of one planned crop.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from sga_kohya.hsd.cut.adapt import adapt
from sga_kohya.hsd.cut.choosing import Choice, choose, redundancies
from sga_kohya.hsd.cut.crop import Crop, discarded
from sga_kohya.hsd.cut.geometry import Box, Size
from sga_kohya.hsd.cut.nesting import nested, widened
from sga_kohya.hsd.cut.quality import CROP_FILTERS
from sga_kohya.hsd.cut.strips import strips
from sga_kohya.hsd.detect import Detection, Detector, View
from sga_kohya.hsd.photos.scaling import resize
from sga_kohya.hsd.settings.config import HsdConfig, LevelConfig

A_LITTLE = 1.1
"""Upscale that is always allowed to a photo that would otherwise be lost."""


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
            discarded(detection, redundant[detection]) if detection in redundant else crop_of(detection, level, rooms)
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
    return replace(discarded(detection, reason), scale=crop.scale) if reason else crop


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
