"""Boxes, aspect ratios and framing. Pure Python: no pixels, no files."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True, order=True)
class Box:
    """Half-open rectangle in source pixels: columns x0 to x1 - 1, rows y0 to y1 - 1. Raises ValueError when empty."""

    x0: int
    y0: int
    x1: int
    y1: int

    def __post_init__(self) -> None:
        if self.x1 <= self.x0 or self.y1 <= self.y0:
            raise ValueError(f"empty box {self.as_list()}: x1 and y1 must exceed x0 and y0")

    @classmethod
    def whole(cls, size: Size) -> "Box":
        """The box of a whole image of that size."""
        return cls(0, 0, *size)

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def size(self) -> Size:
        return self.width, self.height

    @property
    def area(self) -> int:
        return self.width * self.height

    def as_list(self) -> list[int]:
        return [self.x0, self.y0, self.x1, self.y1]

    def shifted(self, dx: int, dy: int) -> "Box":
        """The same box seen from an origin that lies (dx, dy) further up and left."""
        return Box(self.x0 + dx, self.y0 + dy, self.x1 + dx, self.y1 + dy)

    def clipped(self, bounds: "Box") -> "Box | None":
        """The part inside `bounds`, None when nothing is."""
        x0, y0 = max(self.x0, bounds.x0), max(self.y0, bounds.y0)
        x1, y1 = min(self.x1, bounds.x1), min(self.y1, bounds.y1)
        return Box(x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None

    def inside(self, other: "Box") -> bool:
        return self.clipped(other) == self


def intersection(a: Box, b: Box) -> int:
    """Area shared by two boxes, in square pixels."""
    shared = a.clipped(b)
    return shared.area if shared else 0


def iou(a: Box, b: Box) -> float:
    """Intersection over union, in [0, 1]. For nested boxes it is the ratio of their areas."""
    shared = intersection(a, b)
    return shared / (a.area + b.area - shared)


def containment(a: Box, b: Box) -> float:
    """Share of the smaller box that lies in the other, in [0, 1]: 1 for nested boxes, whatever their sizes."""
    return intersection(a, b) / min(a.area, b.area)


def aspect_error(size: Size, target: Size) -> float:
    """|log| of the ratio of the two aspect ratios: 0 when equal, the same for 2:1 against 1:1 as for 1:2."""
    return abs(math.log(size[0] * target[1] / (size[1] * target[0])))


def best_aspect_match(size: Size, targets: Sequence[Size], tolerance: float = 0.05) -> Size:
    """BestAspectMatch of Algorithm 1: the largest target whose aspect error is within `tolerance` of the smallest one.

    Without the tolerance an exact but small match (5:6 as 320x384) would beat a large one a few columns off (512x640).
    Raises ValueError without targets.
    """
    if not targets:
        raise ValueError(f"no target size for {size[0]}x{size[1]}: give the level at least one")
    errors = [aspect_error(size, target) for target in targets]
    limit = min(errors) + tolerance
    close = ((target, error) for target, error in zip(targets, errors, strict=True) if error <= limit)
    return max(close, key=lambda pair: (pair[0][0] * pair[0][1], -pair[1], pair[0]))[0]


def framing_crop(box: Box, bounds: Box, aspect: Size) -> Box:
    """FramingCrop of Algorithm 1: a box of the aspect ratio width:height, inside `bounds`, centred on `box`.

    `box` must lie inside `bounds`. It is grown along one side, never shrunk, and the result is shifted back inside
    where it would stick out; so the subject is cut only where `bounds` has no room for that aspect ratio.
    """
    return centred_box(box, bounds, framed_size(box.size, bounds.size, aspect))


def framed_size(size: Size, room: Size, aspect: Size) -> Size:
    """Width and height of the framing crop of a box of `size` in bounds of the size `room`, wherever the box lies."""
    width, height = float(size[0]), float(size[1])
    ratio = aspect[0] / aspect[1]
    if width < height * ratio:
        width = height * ratio
    else:
        height = width / ratio
    fit = min(1.0, room[0] / width, room[1] / height)
    return max(1, round(width * fit)), max(1, round(height * fit))


def centred_box(box: Box, bounds: Box, size: Size) -> Box:
    """A box of `size` (at most that of `bounds`), centred on `box`, shifted to lie inside `bounds`."""
    x0 = _clamp((box.x0 + box.x1 - size[0]) // 2, bounds.x0, bounds.x1 - size[0])
    y0 = _clamp((box.y0 + box.y1 - size[1]) // 2, bounds.y0, bounds.y1 - size[1])
    return Box(x0, y0, x0 + size[0], y0 + size[1])


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))
