"""How a run obeys decisions: from the regions that a detector has found to those that a person wants.

For each place of a photo, whatever detector and settings the run has:
1. The slice at its anchor is taken out. Where the detector has none at these very pixels, those of the level go that
   show the same thing (`same_place`), so that what was rejected or moved does not come back a little shifted, and those
   that nearly are the pinned box. Nothing takes the seat of a rejected one.
2. A pinned box is cut, in the nearest size of its level: neither max_slices nor redundancy nor any filter is asked. One
   that the detector finds again to the pixel stays the detector's, so that its file stays as it is.
3. A pinned box takes the seat of what stood there: where the detector now finds something else in its region, that is
   above max_slices. An added one takes none.
A finer box belongs to the region that it shares most with; one of the coarsest level that meets none is a region of its
own. Places of levels that the settings do not have wait until these have them again.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from sga_kohya.hsd.cut.adapt import adapt
from sga_kohya.hsd.cut.choosing import ITS_OWN, SURPLUS
from sga_kohya.hsd.cut.crop import Crop
from sga_kohya.hsd.cut.decompose import A_LITTLE, Region
from sga_kohya.hsd.cut.geometry import Box, Size, containment, intersection, iou
from sga_kohya.hsd.detect import Detection
from sga_kohya.hsd.review.decisions import WHOLE_PHOTO, Place
from sga_kohya.hsd.settings.config import HsdConfig, LevelConfig

REJECTED, MOVED = "rejected", "moved"
"""Kinds of discards that a person has made. Such crops keep their size, so that an undo can show them again."""
SAME, INSIDE = 0.5, 0.8
"""IoU above which two slices of a level show the same; share of a smaller one inside the other that says it, too."""


def same_place(a: Box, b: Box) -> bool:
    """Whether two slices of one level show the same thing: they mostly agree, or one is the other framed tighter."""
    small, large = sorted((a.area, b.area))
    return iou(a, b) > SAME or (small >= ITS_OWN * large and containment(a, b) > INSIDE)


def cut(place: Place, photo: Size, config: HsdConfig, label: str = "") -> Crop | None:
    """The crop of a pinned box, framed to the size that the person saw, if the level still has it. Never outside.

    None where the level is not there, or nothing of the box is.
    """
    level = next((level for level in config.levels if level.name == place.level), None)
    bounds = Box.whole(photo)
    box = place.box.clipped(bounds) if place.box else None
    if level is None or box is None:
        return None
    if level is config.coarsest:
        level = replace(level, tau_up=max(level.tau_up, A_LITTLE))
    seen = _as_seen(box, place.size, level, config) if box == place.box else None
    crop = seen or adapt(Detection(box, 1.0, level.name, label), bounds, level, config.min_size, 1.0)
    return replace(crop, label=label, decided=place.key, drawn=True)


def _as_seen(frame: Box, size: Size | None, level: LevelConfig, config: HsdConfig) -> Crop | None:
    """The very frame that was shown, where the level still has its size and may enlarge it so much; else None."""
    if size is None or size not in level.targets(config.min_size):
        return None
    scale = max(size[0] / frame.width, size[1] / frame.height)
    # A frame's sides are rounded, each by half a pixel at most.
    alike = abs(frame.width * size[1] - frame.height * size[0]) <= sum(size) / 2
    return Crop(level.name, frame, 1.0, scale, size) if alike and scale <= level.tau_up else None


@dataclass
class Seat:
    """A crop at its region, while decisions are applied."""

    region: int
    crop: Crop

    @property
    def free(self) -> bool:
        """Whether no place has a claim on it."""
        return self.crop.kept and not self.crop.decided


def obey(regions: Sequence[Region], places: Sequence[Place], photo: Size, config: HsdConfig) -> list[Region]:
    """What becomes of a photo's regions. Every crop that a decision touched has the place's key in `decided`."""
    if not places:
        return list(regions)
    seats = [Seat(number, crop) for number, region in enumerate(regions) for crop in region.crops]
    if any(place.key == WHOLE_PHOTO for place in places):
        for seat in seats:
            _leave_out(seat, WHOLE_PHOTO, f"{REJECTED}: the whole photo, in the review")
        return _joined(regions, seats, config)
    places = [place for place in places if place.level in {level.name for level in config.levels}]
    found_again = {place.key for place in places if _found_again(place, seats)}
    anchored = {place.key for place in places if place.anchor}
    for place in places:
        if place.key not in found_again:
            label, position = _make_room(place, seats)
            if drawn := cut(place, photo, config, label):
                seat = Seat(_region_of(drawn, place, seats, config), drawn)
                seats.insert(position, seat)  # where the old one stood, so that its siblings keep their names
                _one_less(seat, seats, anchored, config)
    return _joined(regions, seats, config)


def _found_again(place: Place, seats: Sequence[Seat]) -> Seat | None:
    """The detector's own crop of a pinned box, to the pixel; it is claimed for the place."""
    for seat in seats:
        if seat.free and seat.crop.level == place.level and seat.crop.box == place.box:
            seat.crop = replace(seat.crop, decided=place.key)
            return seat
    return None


def _make_room(place: Place, seats: list[Seat]) -> tuple[str, int]:
    """Takes out what stood at a place, also the discard that a person wants. Returns its label and its position."""
    there = [seat for seat in seats if seat.crop.level == place.level and not seat.crop.decided]
    gone = [seat for seat in there if seat.crop.box == (place.anchor if seat.free else place.box)] or [
        seat for seat in there if seat.free and _shows(place, seat.crop.box)
    ]
    if not gone:
        return "", len(seats)
    label, position = gone[0].crop.label, next(i for i, seat in enumerate(seats) if seat is gone[0])
    why = f"{MOVED}: to a box that was drawn in the review" if place.box else f"{REJECTED}: in the review"
    for seat in gone:
        if seat.free:
            _leave_out(seat, place.key, why)
        else:
            seats[:] = [other for other in seats if other is not seat]
    return label, position


def _shows(place: Place, box: Box) -> bool:
    """Whether a detected slice is what a place is about, at its anchor, or the same as the box that is pinned there."""
    at_anchor = place.anchor is not None and same_place(box, place.anchor)
    return at_anchor or (place.box is not None and iou(box, place.box) > SAME)


def _leave_out(seat: Seat, key: str, reason: str) -> None:
    if seat.crop.kept:
        seat.crop = replace(seat.crop, reason=reason, decided=key)


def _one_less(new: Seat, seats: Sequence[Seat], anchored: Collection[str], config: HsdConfig) -> None:
    """Where a new box has the place of an old one, and the detector has filled its level again: one of the others."""
    region, crop = new.region, new.crop
    there = [seat for seat in seats if seat.region == region and seat.crop.level == crop.level and seat.crop.kept]
    taken, free = [seat for seat in there if seat.crop.decided in anchored], [seat for seat in there if seat.free]
    level = next(level for level in config.levels if level.name == crop.level)
    allowed = 1 if level is config.coarsest else level.max_slices
    if crop.decided in anchored and free and len(taken) + len(free) > allowed:
        _leave_out(free[-1], crop.decided, f"{SURPLUS}: a box that was drawn in the review takes its seat")


def _region_of(crop: Crop, place: Place, seats: Sequence[Seat], config: HsdConfig) -> int:
    """The region that a pinned crop belongs to, by number; a new one where there is none for it."""
    if crop.level == config.coarsest.name:
        return _region_of_the_coarsest(crop, place, seats, config)
    return _nearest(crop.box, seats)


def _nearest(box: Box, seats: Sequence[Seat]) -> int:
    """The region that shares most with a box."""
    frames = {seat.region: seat.crop.box for seat in reversed(seats)}  # of each region, its first crop's
    return max(sorted(frames), key=lambda number: intersection(frames[number], box), default=0)


def _region_of_the_coarsest(crop: Crop, place: Place, seats: Sequence[Seat], config: HsdConfig) -> int:
    """Where its slice was taken out; in whole-image mode the nearest; else, and for an added box, a new one."""
    emptied = [seat.region for seat in seats if seat.crop.decided == place.key]
    if emptied:
        return emptied[0]
    if place.anchor and config.mode == "whole" and seats:
        return _nearest(crop.box, seats)
    return 1 + max((seat.region for seat in seats), default=-1)


def _joined(regions: Sequence[Region], seats: Sequence[Seat], config: HsdConfig) -> list[Region]:
    """Regions again, each with its coarsest crop first, kept ones before discards."""
    order = {level.name: rank for rank, level in enumerate(config.levels)}
    result = []
    for number in sorted({seat.region for seat in seats}):
        crops = [seat.crop for seat in seats if seat.region == number]
        crops.sort(key=lambda crop: (order.get(crop.level, 0), not crop.kept))
        seen = regions[number].seen if number < len(regions) else ()
        result.append(Region(tuple(_coarsest_first(crops, config)), seen))
    return result


def _coarsest_first(crops: Sequence[Crop], config: HsdConfig) -> Iterator[Crop]:
    """One of the coarsest level, and then the finer ones, and further discards of the coarsest behind them."""
    own = [crop for crop in crops if crop.level == config.coarsest.name]
    yield from own[:1]
    yield from (crop for crop in crops if crop.level != config.coarsest.name)
    yield from own[1:]
