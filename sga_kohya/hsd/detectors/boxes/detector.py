"""The detector `boxes`: the annotations of a photo, where they lie in a view; and what is said of them before a run."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sga_kohya.errors import SgaError
from sga_kohya.hsd.cut.geometry import Size
from sga_kohya.hsd.detect import Detection, View
from sga_kohya.hsd.detectors.boxes.coco import read_coco
from sga_kohya.hsd.detectors.boxes.drawing import Annotations, Drawing, Stored, stored
from sga_kohya.hsd.detectors.boxes.matching import Matches, match
from sga_kohya.hsd.detectors.boxes.yolo import read_yolo
from sga_kohya.hsd.detectors.classes import Found
from sga_kohya.hsd.detectors.labels import ClassChoice
from sga_kohya.hsd.detectors.letterbox import best_first, to_detection
from sga_kohya.hsd.detectors.options import Options
from sga_kohya.hsd.out.manifest import MANIFEST
from sga_kohya.hsd.photos.finding import find_images
from sga_kohya.kit.text import safe
from sga_kohya.kit.values import existing, one_of

SHOWN = 3
"""Names that stand for all."""

DRAWN_ON = ("upright", "stored")


class Placed:
    """The drawings of photos, and in which orientation each was drawn.

    other_shape: annotated photos whose boxes belong to a picture of another shape. assumed: photos that EXIF turns and
    of which nothing tells what the annotator saw.
    """

    def __init__(self, photos: Path, drawings: Mapping[str, Drawing], drawn_on: str) -> None:
        """drawings: by photo below `photos`. drawn_on: what to assume where nothing tells."""
        self._drawings: dict[str, tuple[Drawing, int]] = {}
        self.other_shape: list[str] = []
        self.assumed: list[str] = []
        for source, drawing in drawings.items():
            self._place(source, drawing, stored(photos / source), drawn_on)

    def of(self, source: str, size: Size) -> list[Found]:
        """In pixels of the upright photo, whose size is (width, height)."""
        drawing, orientation = self._drawings.get(source, (Drawing(), 1))
        return drawing.on(size, orientation)

    def _place(self, source: str, drawing: Drawing, file: Stored | None, drawn_on: str) -> None:
        fitting = [seen for seen in DRAWN_ON if file is None or drawing.has_the_shape_of(file.seen(seen))]
        if not fitting:
            self.other_shape.append(source)
            return
        orientation = file.orientation if file else 1
        if orientation > 1 and len(fitting) > 1 and drawing.boxes:
            self.assumed.append(source)
        seen = drawn_on if drawn_on in fitting else fitting[0]
        self._drawings[source] = drawing, orientation if seen == "stored" else 1


class AnnotationDetector:
    name = "boxes"

    def __init__(self, placed: Placed, labels: Mapping[str, frozenset[str]], thresholds: Mapping[str, float]) -> None:
        self._placed, self._labels, self._thresholds = placed, labels, thresholds

    def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
        """The annotations of a level's labels whose centre lies in the view."""
        return [self._detect_one(view, level) for view in views]

    def _detect_one(self, view: View, level: str) -> list[Detection]:
        return best_first(
            [
                to_detection(_shifted(corners, view), score, level, label, view.size)
                for corners, score, label in self._placed.of(view.source, view.photo_size)
                if label in self._labels[level] and score >= self._thresholds[level] and _centred_in(corners, view)
            ]
        )


def notes(annotations: Annotations, matches: Matches, placed: Placed, photos: int, drawn_on: str) -> Iterator[str]:
    """How much of the annotations is used, and what is not."""
    strangers = f"{len(matches.unmatched)} names match no photo{_examples(matches.unmatched)}"
    yield f"{len(matches.annotation_of)} of {photos} photos are annotated, {strangers}"
    if matches.ambiguous:
        pairs = [f"{photo} by {name}" for photo, name in matches.ambiguous]
        yield f"{len(pairs)} matches are not used, as another is as likely{_examples(pairs)}"
    if placed.other_shape:
        shown = _examples(placed.other_shape)
        yield f"{len(placed.other_shape)} photos have another shape than annotated, left out{shown}"
    if placed.assumed:
        yield (
            f"{len(placed.assumed)} annotated photos are turned by EXIF{_examples(placed.assumed)}: their boxes are "
            f"taken as drawn on the {drawn_on} picture (drawn_on={' or '.join(DRAWN_ON)})"
        )
    if annotations.empty:
        yield f"{len(annotations.empty)} boxes without a size are left out{_examples(annotations.empty)}"
    if annotations.others:
        yield f"{len(annotations.others)} .txt files hold no labels{_examples(annotations.others)}"


def _examples(named: Sequence[str]) -> str:
    unlike = list(dict.fromkeys(named))
    # As repr writes them: a name may hold a line break.
    return f", such as {', '.join(map(repr, unlike[:SHOWN]))}" if unlike else ""


def _shifted(corners: Sequence[float], view: View) -> tuple[float, ...]:
    return tuple(edge - origin for edge, origin in zip(corners, (view.box.x0, view.box.y0) * 2, strict=True))


def _centred_in(corners: Sequence[float], view: View) -> bool:
    x, y = (corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2
    return view.box.x0 <= x < view.box.x1 and view.box.y0 <= y < view.box.y1


def create(options: Options, photos: Path) -> AnnotationDetector:
    path, classes = options.read("annotations", existing), options.read("classes", existing)
    thresholds, choice = options.thresholds(0.0), ClassChoice(options)
    drawn_on = options.read("drawn_on", one_of(DRAWN_ON), DRAWN_ON[0])
    if path is None and not options.problems:
        options.problems.append("no annotations: give annotations=FOLDER with YOLO .txt files, or a COCO .json file")
    options.finish()
    assert path is not None
    annotations = read_yolo(path, classes) if path.is_dir() else read_coco(path)
    labels = {level: choice.of(level, annotations.classes) for level in options.levels}
    sources = [file.relative_to(photos).as_posix() for file in find_images(photos, photos / ".", [MANIFEST]).images]
    matches = match(sources, list(annotations.drawings))
    drawings = {source: annotations.drawings[name] for source, name in matches.annotation_of.items()}
    placed = Placed(photos, drawings, drawn_on)
    said = list(notes(annotations, matches, placed, len(sources), drawn_on))
    if not drawings:
        raise SgaError(f"detector boxes: {'; '.join(said)}; photos are{_examples(sources)[1:]} in {photos}")
    for note in said:
        print(f"boxes: {safe(note)}", file=sys.stderr)
    return AnnotationDetector(placed, labels, thresholds)
