"""One COCO JSON with images, annotations and categories."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.hsd.detectors.boxes.drawing import Annotations
from sga_kohya.hsd.detectors.classes import Found
from sga_kohya.kit.text import decode_text


def read_coco(file: Path) -> Annotations:
    """A box is [left, top, width, height] in pixels of an image of `width` and `height`. Raises SgaError."""
    try:
        data = json.loads(decode_text(file.read_bytes()))
        categories = {entry["id"]: str(entry["name"]) for entry in data["categories"]}
        images = {entry["id"]: entry for entry in data["images"]}
        annotations = Annotations(list(dict.fromkeys(categories.values())))
        boxes: dict[Any, list[Found]] = defaultdict(list)
        for entry in data["annotations"]:
            boxes[images[entry["image_id"]]["file_name"]].append(_box(entry, categories))
        for image in images.values():
            annotations.add(str(image["file_name"]), boxes[image["file_name"]], _size(image))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise SgaError(f"detector boxes: {file} is no COCO annotation file ({error!r:.200})") from error
    return annotations


def _box(entry: Mapping[str, Any], categories: Mapping[Any, str]) -> Found:
    """Without any bbox, or with an empty one, a box of no size."""
    x, y, w, h = (float(number) for number in entry.get("bbox") or (0, 0, 0, 0))
    score = float(entry.get("score", 1.0))
    if not all(map(math.isfinite, (x, y, w, h, score))):
        raise ValueError(entry)
    return (x, y, x + w, y + h), score, categories[entry["category_id"]]


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = int(image.get("width") or 0), int(image.get("height") or 0)
    return (width, height) if width > 0 and height > 0 else None
