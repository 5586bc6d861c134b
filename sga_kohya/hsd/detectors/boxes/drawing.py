"""Boxes as somebody drew them: on a photo of another size, or on one that its EXIF orientation had not yet turned."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from sga_kohya.hsd.cut.geometry import Size
from sga_kohya.hsd.detectors.classes import Found

ORIENTATION = 0x0112
"""The EXIF tag; 1 is upright, 2 to 8 are turned or mirrored, 5 to 8 lie on their side."""

TURNED = {
    2: lambda x, y: (1 - x, y),
    3: lambda x, y: (1 - x, 1 - y),
    4: lambda x, y: (x, 1 - y),
    5: lambda x, y: (y, x),
    6: lambda x, y: (1 - y, x),
    7: lambda x, y: (1 - y, 1 - x),
    8: lambda x, y: (y, 1 - x),
}
"""Where a point of the stored picture lies in the upright one, both in shares of the sides."""

SHARES: Size = (1, 1)


@dataclass(frozen=True)
class Drawing:
    """boxes: corners, score, class. size: of the picture they are drawn on, SHARES, or None for the photo's own."""

    boxes: Sequence[Found] = ()
    size: Size | None = SHARES

    def on(self, photo: Size, orientation: int = 1) -> list[Found]:
        """In pixels of an upright photo of that size. orientation: of the picture that they were drawn on."""
        width, height = self.size or (photo if orientation < 5 else photo[::-1])
        turn = TURNED.get(orientation, lambda x, y: (x, y))
        found: list[Found] = []
        for (x0, y0, x1, y1), score, name in self.boxes:
            ends = turn(x0 / width, y0 / height), turn(x1 / width, y1 / height)
            xs, ys = (sorted(values) for values in zip(*ends, strict=True))
            found.append(((xs[0] * photo[0], ys[0] * photo[1], xs[1] * photo[0], ys[1] * photo[1]), score, name))
        return found

    def has_the_shape_of(self, size: Size) -> bool:
        """Whether a picture of that size could be the one that was drawn on, to two parts in a hundred."""
        if self.size is None or self.size == SHARES:
            return True
        return abs(self.size[0] * size[1] - self.size[1] * size[0]) <= 0.02 * self.size[0] * size[1]


@dataclass
class Annotations:
    """drawings: by the name that the annotations give to a photo. empty: the name, for each box that has no size.
    others: files among them that are none."""

    classes: Sequence[str]
    drawings: dict[str, Drawing] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def add(self, name: str, boxes: Sequence[Found], size: Size | None = SHARES) -> None:
        sized = [box for box in boxes if box[0][0] < box[0][2] and box[0][1] < box[0][3]]
        self.drawings[name] = Drawing(sized, size)
        self.empty += [name] * (len(boxes) - len(sized))


@dataclass(frozen=True)
class Stored:
    """A photo's file before it is turned. size: as stored, (width, height)."""

    size: Size
    orientation: int = 1

    def seen(self, drawn_on: str) -> Size:
        """Of the picture that an annotator saw, "upright" or as "stored"."""
        return (self.size[1], self.size[0]) if drawn_on == "upright" and self.orientation >= 5 else self.size


def stored(photo: Path) -> Stored | None:
    """From the file's header alone; None where it cannot be read, which the run will say."""
    try:
        with Image.open(photo) as image:
            orientation = image.getexif().get(ORIENTATION, 1)
            return Stored(image.size, orientation if orientation in TURNED else 1)
    except Exception:  # on damaged files Pillow raises almost anything
        return None
