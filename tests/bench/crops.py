"""What H-SD cuts from a folder of photos: a contact sheet of every slice, to judge by eye, and what can be measured.

    python tests/bench/crops.py PHOTOS OUT [any option of python -m sga_kohya.hsd]

The photos are the user's; none come with the repository. Sixty and more of people, animals, things, buildings and
landscapes say something; Debian's gcompris-qt-data, opencv-doc, lomiri-wallpapers and plasma-workspace-wallpapers hold
such, scikit-image and ultralytics a few. Faces are found by a detector that cuts nothing here: MTCNN, where it is
installed (`pip install --no-deps facenet-pytorch`). OUT/sheet-01.jpg shows, photo by photo, its boxes (macro white,
meso yellow, micro red), then its slices with their numbers; OUT/slices.tsv has a line for each, with room for a
judgement: `--judged FILE` counts the first words of its last column by level. OUT/cut is cut anew by every run.
"""

import argparse
import csv
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from PIL import Image, ImageDraw

from sga_kohya.hsd import Box, run
from sga_kohya.hsd.__main__ import build_parser, config_from
from sga_kohya.hsd.cut.geometry import containment, intersection
from sga_kohya.hsd.out.lines import read_rows
from sga_kohya.hsd.out.manifest import MANIFEST, Row
from sga_kohya.hsd.photos.images import decode_image

TILE, LINE, ACROSS, DOWN = 165, 12, 2, 7
"""Side of a picture on the sheet, height of its words, photos side by side and one below the other."""
COLOURS = ("white", "yellow", "red", "cyan")
INSIDE = 0.95
"""Share of a micro slice that has to lie in a meso slice of its group to be part of it."""
FLAT = 0.35
"""Bits per pixel of a JPEG of quality 75, below which a slice has next to nothing in it."""
CUT = (0.1, 0.9)
"""Shares of a face inside a slice between which the slice cuts it; at the edges the two detectors may disagree."""
SEEN = 0.06
"""Height of a face over that of the slice, below which it is somebody in the background."""


@dataclass
class Measures:
    """Of one level. enlargements: of the enlarged slices. apart: slices outside every slice of the level above."""

    slices: int = 0
    flat: int = 0
    faces_cut: int = 0
    apart: int = 0
    enlargements: list[float] = field(default_factory=list)
    sides: list[float] = field(default_factory=list)

    def line(self) -> str:
        enlarged = f"{len(self.enlargements)}" + (f" ×{median(self.enlargements):.2f}" if self.enlargements else "")
        cells = (self.slices, enlarged, f"{median(self.sides or [0]):.0f}", self.flat, self.apart, self.faces_cut)
        return "".join(f"{cell:>12}" for cell in cells)


HEADINGS = "".join(f"{name:>12}" for name in ("slices", "enlarged", "side", "flat", "apart", "faces cut"))


class Faces:
    """Boxes of faces by MTCNN, in pixels of the photo; none where it is not installed."""

    def __init__(self) -> None:
        try:
            from facenet_pytorch import MTCNN

            self._model = MTCNN(keep_all=True, post_process=False, device="cpu", min_face_size=24)
        except ImportError:
            self._model = None
            print("faces are not measured: pip install --no-deps facenet-pytorch", file=sys.stderr)

    def of(self, pixels: np.ndarray) -> list[Box]:
        if self._model is None:
            return []
        small = Image.fromarray(pixels)
        small.thumbnail((1024, 1024))
        zoom = pixels.shape[1] / small.width
        boxes, scores = self._model.detect(small)
        if boxes is None:
            return []
        return [Box(*(int(x * zoom) for x in box)) for box, score in zip(boxes, scores, strict=True) if score > 0.99]


def is_flat(pixels: np.ndarray) -> bool:
    data = cv2.imencode(".jpg", pixels[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 75))[1]
    return 8 * len(data) / (pixels.shape[0] * pixels.shape[1]) < FLAT


def faces_cut(box: Box, faces: Sequence[Box]) -> int:
    shares = [intersection(box, face) / face.area for face in faces if face.height > SEEN * box.height]
    return sum(CUT[0] < share < CUT[1] for share in shares)


def measure(
    rows: Sequence[Row], faces: Sequence[Box], out: Path, levels: Sequence[str], found: dict[str, Measures]
) -> None:
    """rows: of the slices of one group."""
    boxes = defaultdict(list)
    for row in rows:
        boxes[row.granularity].append(Box(*row.box))
    for row in rows:
        box, level = Box(*row.box), found[row.granularity]
        level.slices += 1
        level.enlargements += [row.scale] if row.scale > 1 else []
        level.sides.append((row.size[0] * row.size[1]) ** 0.5)
        level.flat += is_flat(np.asarray(Image.open(out / row.file)))
        level.faces_cut += faces_cut(box, faces)
        above = boxes[levels[levels.index(row.granularity) - 1]] if row.granularity != levels[0] else []
        level.apart += bool(above) and all(containment(box, other) < INSIDE for other in above)


class Sheets:
    """Contact sheets, filled photo by photo."""

    def __init__(self, out: Path) -> None:
        self.out, self.count, self.number = out, 0, 0
        self.page = self._blank()

    def add(self, pixels: np.ndarray, rows: Sequence[Row], levels: Sequence[str], slices: Path) -> Iterator[int]:
        """Yields the number of each slice, as it stands on the sheet. Three pictures a line."""
        tiles = [(self._marked(pixels, rows, levels), rows[0].source[:24])]
        for row in rows:
            if row.granularity != levels[0]:
                self.number += 1
                yield self.number
                tiles.append((Image.open(slices / row.file), f"{self.number} {row.granularity} {row.size} {row.scale}"))
            else:
                yield 0
        for start in range(0, len(tiles), 3):
            self._place(tiles[start : start + 3])

    def _marked(self, pixels: np.ndarray, rows: Sequence[Row], levels: Sequence[str]) -> Image.Image:
        picture = Image.fromarray(pixels)
        picture.thumbnail((TILE, TILE))
        zoom, draw = picture.width / pixels.shape[1], ImageDraw.Draw(picture)
        for row in rows:
            x0, y0, x1, y1 = (zoom * edge for edge in row.box)
            draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=COLOURS[levels.index(row.granularity)])
        return picture

    def _place(self, tiles: Sequence[tuple[Image.Image, str]]) -> None:
        if self.count == ACROSS * DOWN:
            self.save()
        x, y = (self.count % ACROSS) * 3 * TILE, (self.count // ACROSS) * (TILE + LINE)
        for i, (picture, words) in enumerate(tiles):
            picture.thumbnail((TILE - 3, TILE - 3))
            self.page.paste(picture, (x + i * TILE, y + LINE))
            ImageDraw.Draw(self.page).text((x + i * TILE, y), words, fill="black")
        self.count += 1

    def save(self) -> None:
        name = f"sheet-{len(list(self.out.glob('sheet-*.jpg'))) + 1:02d}.jpg"
        self.page.save(self.out / name, quality=88)
        self.page, self.count = self._blank(), 0

    def _blank(self) -> Image.Image:
        return Image.new("RGB", (ACROSS * 3 * TILE, DOWN * (TILE + LINE)), "silver")


def judged(file: Path) -> None:
    """The table by eye."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            counts[row["level"]][(row["judgement"] or "sensible").split()[0]] += 1
    for level, words in counts.items():
        print(f"{level:<8}", ", ".join(f"{count} {word}" for word, count in words.most_common()))


def clear(out: Path) -> None:
    """What an earlier run left there: H-SD would not cut again what other code has cut by the same settings."""
    if (out / "cut" / MANIFEST).is_file():
        shutil.rmtree(out / "cut")
    for old in (out / "slices.tsv", *out.glob("sheet-*.jpg")):
        old.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="?")
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--judged", type=Path, help="a slices.tsv whose last column is filled in: count it, no more")
    args, options = parser.parse_known_args()
    if args.judged:
        return judged(args.judged)
    config = config_from(build_parser().parse_args([str(args.photos), str(args.out / "cut"), *options]))
    levels, faces = [level.name for level in config.levels], Faces()
    clear(args.out)
    result = run(args.photos, args.out / "cut", config, workers=2)
    sheets, found = Sheets(args.out), {level: Measures() for level in levels}
    kept = [row for row in read_rows(result.out) if row.file]
    with (args.out / "slices.tsv").open("w", encoding="utf-8", newline="") as table:
        writer = csv.writer(table, delimiter="\t")
        writer.writerow(["number", "level", "source", "judgement"])
        for _, members in groupby(kept, key=lambda row: row.group):
            rows = list(members)
            pixels = decode_image((args.photos / rows[0].source).read_bytes())[0]
            measure(rows, faces.of(pixels), result.out, levels, found)
            for row, number in zip(rows, sheets.add(pixels, rows, levels, result.out), strict=True):
                writer.writerow([number, row.granularity, row.source, ""])
    sheets.save()
    print(f"{'':<8}{HEADINGS}")
    for level, measures in found.items():
        print(f"{level:<8}{measures.line()}")
    sizes = ", ".join(f"{count} with K = {k}" for k, count in sorted(result.tally.group_sizes.items()))
    print(f"{result.tally.photos} photos, {result.tally.used} used, groups: {sizes}")


if __name__ == "__main__":
    main()
