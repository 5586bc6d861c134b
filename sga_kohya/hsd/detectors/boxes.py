"""Existing annotations instead of a model: YOLO text files or one COCO JSON."""

import json
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from sga_kohya.errors import SgaError
from sga_kohya.hsd.cut.geometry import Size
from sga_kohya.hsd.detect import Detection, View
from sga_kohya.hsd.detectors.class_names import read_classes
from sga_kohya.hsd.detectors.classes import Found
from sga_kohya.hsd.detectors.labels import ClassChoice
from sga_kohya.hsd.detectors.letterbox import best_first, to_detection
from sga_kohya.hsd.detectors.options import Options
from sga_kohya.hsd.settings.config import HsdConfig

CLASS_FILES = ("classes.txt", "obj.names", "data.yaml", "data.yml")


class YoloAnnotations:
    """FOLDER/a/b.txt, or FOLDER/b.txt, for the photo a/b.jpg: "class x y width height [score]", centre, in [0, 1];
    or "class x y x y x y …", a polygon."""

    def __init__(self, folder: Path, classes: Path | None) -> None:
        names = next((folder / name for name in CLASS_FILES if (folder / name).is_file()), None)
        if classes is None and names is None:
            raise SgaError(f"detector boxes: no classes.txt in {folder}: give --detector_arg classes=FILE")
        self._folder = folder
        self.classes = read_classes(classes or names or folder, "boxes")

    def of(self, source: str, size: Size) -> list[Found]:
        """Corners in pixels of the photo, whose size is (width, height)."""
        path = PurePosixPath(source).with_suffix(".txt")
        file = next((p for p in (self._folder / path, self._folder / path.name) if p.is_file()), None)
        if file is None:
            return []
        found = []
        for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
            if line.strip():
                try:
                    found.append(self._found(line.split(), size))
                except (ValueError, IndexError):
                    raise SgaError(
                        f"{file}, line {number}: {line!r} is no YOLO box of one of the {len(self.classes)} classes: "
                        "write CLASS X Y WIDTH HEIGHT"
                    ) from None
        return found

    def _found(self, fields: Sequence[str], size: Size) -> Found:
        number, numbers = int(fields[0]), [float(field) for field in fields[1:]]
        if number < 0 or not np.isfinite(numbers).all():
            raise ValueError(fields)
        if len(numbers) >= 6 and len(numbers) % 2 == 0:  # a polygon, as segmentation data sets have
            low, high = (min(numbers[0::2]), min(numbers[1::2])), (max(numbers[0::2]), max(numbers[1::2]))
            rest: list[float] = []
        else:
            x, y, w, h, *rest = numbers
            low, high = (x - w / 2, y - h / 2), (x + w / 2, y + h / 2)
        if len(rest) > 1:
            raise ValueError(fields)
        corners = (low[0] * size[0], low[1] * size[1], high[0] * size[0], high[1] * size[1])
        return corners, rest[0] if rest else 1.0, self.classes[number]


class CocoAnnotations:
    """One JSON with images, annotations and categories; file_name is the path below PHOTOS, or the name alone."""

    def __init__(self, file: Path) -> None:
        try:
            data = json.loads(file.read_text(encoding="utf-8-sig"))
            categories = {entry["id"]: str(entry["name"]) for entry in data["categories"]}
            images = {entry["id"]: entry for entry in data["images"]}
            self._boxes: dict[str, list[Found]] = defaultdict(list)
            self._sizes: dict[str, Size] = {}
            for entry in data["annotations"]:
                image, (x, y, w, h) = images[entry["image_id"]], map(float, entry["bbox"])
                box = ((x, y, x + w, y + h), float(entry.get("score", 1.0)), categories[entry["category_id"]])
                self._boxes[_posix(image["file_name"])].append(box)
            for image in images.values():
                if "width" in image and "height" in image:
                    self._sizes[_posix(image["file_name"])] = (int(image["width"]), int(image["height"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SgaError(f"detector boxes: {file} is no COCO annotation file ({error!r})") from error
        self.classes: Sequence[str] = list(dict.fromkeys(categories.values()))
        by_name = defaultdict(list)
        for file_name in self._boxes:
            by_name[PurePosixPath(file_name).name].append(file_name)
        # A bare name only where it is the only one of its kind.
        self._by_name = {name: files[0] for name, files in by_name.items() if len(files) == 1}

    def of(self, source: str, size: Size) -> list[Found]:
        key = source if source in self._boxes else self._by_name.get(PurePosixPath(source).name, "")
        if key not in self._boxes:
            return []
        annotated = self._sizes.get(key, size)
        if abs(annotated[0] * size[1] - annotated[1] * size[0]) > 0.02 * annotated[0] * size[1]:
            warnings.warn(
                f"{source}: annotated at {annotated[0]}x{annotated[1]}, but upright it is {size[0]}x{size[1]}: "
                "its boxes are left out",
                stacklevel=2,
            )
            return []
        zoom = (size[0] / annotated[0], size[1] / annotated[1]) * 2
        return [
            (tuple(edge * factor for edge, factor in zip(corners, zoom, strict=True)), score, name)
            for corners, score, name in self._boxes[key]
        ]


class AnnotationDetector:
    name = "boxes"

    def __init__(
        self,
        annotations: YoloAnnotations | CocoAnnotations,
        labels: Mapping[str, frozenset[str]],
        thresholds: Mapping[str, float],
    ) -> None:
        self._annotations, self._labels, self._thresholds = annotations, labels, thresholds

    def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
        """The annotations of a level's labels whose centre lies in the view."""
        return [self._detect_one(view, level) for view in views]

    def _detect_one(self, view: View, level: str) -> list[Detection]:
        return best_first(
            [
                to_detection(_shifted(corners, view), score, level, label, view.size)
                for corners, score, label in self._annotations.of(view.source, view.photo_size)
                if label in self._labels[level] and score >= self._thresholds[level] and _centred_in(corners, view)
            ]
        )


def _posix(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _shifted(corners: Sequence[float], view: View) -> tuple[float, ...]:
    return tuple(edge - origin for edge, origin in zip(corners, (view.box.x0, view.box.y0) * 2, strict=True))


def _centred_in(corners: Sequence[float], view: View) -> bool:
    x, y = (corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2
    return view.box.x0 <= x < view.box.x1 and view.box.y0 <= y < view.box.y1


def create(config: HsdConfig, photos: Path) -> AnnotationDetector:
    options = Options(config)
    path, classes = options.path("annotations"), options.path("classes")
    thresholds, choice = options.thresholds(0.0), ClassChoice(options)
    if path is None and not options.problems:
        options.problems.append("no annotations: give annotations=FOLDER with YOLO .txt files, or a COCO .json file")
    options.finish()
    assert path is not None
    annotations = YoloAnnotations(path, classes) if path.is_dir() else CocoAnnotations(path)
    labels = {level: choice.of(level, annotations.classes) for level in options.levels}
    return AnnotationDetector(annotations, labels, thresholds)
