"""YOLO label files: a .txt for each photo, a line for each box, in shares of the picture."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from sga_kohya.errors import SgaError
from sga_kohya.hsd.detectors.boxes.drawing import Annotations
from sga_kohya.hsd.detectors.class_names import read_classes
from sga_kohya.hsd.detectors.classes import Found
from sga_kohya.hsd.photos.label_lines import is_label_line
from sga_kohya.kit.text import decode_text

CLASS_FILES = ("classes.txt", "obj.names", "data.yaml", "data.yml")
FURTHEST = 1.5
"""A box may reach over the edge of its picture, but coordinates above this are no shares."""


def read_yolo(folder: Path, classes: Path | None) -> Annotations:
    """All label files below the folder. classes: else the first of CLASS_FILES there, or in a folder above.

    A line is "class x y width height [score]", the centre, in [0, 1]; or "class x y x y x y … [score]", a polygon; or,
    where `kpt_shape` of a data.yaml or all files say so, "class x y width height x y visibility …", key points.
    Raises SgaError with the file and the line.
    """
    above = (folder, *folder.resolve().parents[:2])
    files = [place / name for place in above for name in CLASS_FILES if (place / name).is_file()]
    if classes is None and not files:
        raise SgaError(f"detector boxes: no classes.txt in {folder}: give --detector_arg classes=FILE")
    names = read_classes(classes or files[0], "boxes")
    lines, others = label_lines(folder)
    points = key_points(classes or files[0]) or common_points(lines.values())
    annotations = Annotations(names, others=others)
    for file, numbered in lines.items():
        annotations.add(file, [_read(folder / file, number, line, names, points) for number, line in numbered])
    return annotations


def label_lines(folder: Path) -> tuple[dict[str, list[tuple[int, str]]], list[str]]:
    """Numbered lines that are not blank, by file below the folder; and .txt files that hold something else."""
    lines, others = {}, []
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() != ".txt" or not file.is_file() or file.name in CLASS_FILES:
            continue
        name = file.relative_to(folder).as_posix()
        text = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        numbered = [(number, line) for number, line in enumerate(text, start=1) if line.strip()]
        if numbered and not is_label_line(numbered[0][1]):
            others.append(name)
        else:
            lines[name] = numbered
    return lines, others


def key_points(file: Path) -> int:
    """How many numbers the key points of a box have, by `kpt_shape` of a data.yaml; 0 where it does not say."""
    if file.suffix.lower() not in (".yaml", ".yml"):
        return 0
    try:
        shape = yaml.safe_load(decode_text(file.read_bytes())).get("kpt_shape") or [0]
        return math.prod(int(number) for number in shape)
    except (ValueError, TypeError, AttributeError):
        raise SgaError(f"detector boxes: kpt_shape in {file} is no pair of numbers, such as [17, 3]") from None


def common_points(files: Iterable[Sequence[tuple[int, str]]]) -> int:
    """The same from the labels: every line has as many triples behind its box, each with visibility 0, 1 or 2.

    Polygons of a data set are neither of one length nor have every third coordinate on an edge.
    """
    rows = [line.split()[1:] for numbered in files for _, line in numbered]
    lengths = {len(row) for row in rows}
    count = lengths.pop() - 4 if len(lengths) == 1 else 0
    if count < 3 or count % 3:
        return 0
    return count if {value for row in rows for value in row[6::3]} <= {"0", "1", "2", "0.0", "1.0", "2.0"} else 0


def _read(file: Path, number: int, line: str, names: Sequence[str], points: int) -> Found:
    try:
        first, *rest = map(_number, line.split())
        numbers = rest[:4] + rest[4 + points :] if len(rest) >= 4 + points else rest
        if first != int(first) or first < 0 or max(map(abs, numbers)) > FURTHEST:
            raise ValueError
        corners, score = _shape(numbers)
        return corners, score, names[int(first)]
    except (ValueError, IndexError):
        raise SgaError(
            f"detector boxes: {file}, line {number}: {line!r:.100} is no YOLO label of one of the {len(names)} "
            "classes: write CLASS X Y WIDTH HEIGHT, in shares of the picture"
        ) from None


def _shape(numbers: Sequence[float]) -> tuple[tuple[float, ...], float]:
    """Corners and score of a box or of a polygon; an odd number is the score. Raises ValueError."""
    if len(numbers) < 4:
        raise ValueError
    pairs = len(numbers) // 2
    score = numbers[-1] if len(numbers) % 2 else 1.0
    xs, ys = numbers[0 : 2 * pairs : 2], numbers[1 : 2 * pairs : 2]
    if pairs == 2:
        (x, w), (y, h) = xs, ys
        return (x - w / 2, y - h / 2, x + w / 2, y + h / 2), score
    return (min(xs), min(ys), max(xs), max(ys)), score


def _number(word: str) -> float:
    """Raises ValueError for what is not finite."""
    value = float(word)
    if not math.isfinite(value):
        raise ValueError(word)
    return value
