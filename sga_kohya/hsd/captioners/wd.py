"""The captioner `wd`: WD14-style taggers by ONNX Runtime, with the user's file and its list of tags.

Read as sd-scripts' finetune/tag_images_by_wd14_tagger.py reads them: a picture padded to a white square, BGR, values 0
to 255; a score for each line of selected_tags.csv, in its order.
"""

import csv
import io
import re
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from sga_kohya.errors import SgaError
from sga_kohya.hsd.captioners.captioner import Slice
from sga_kohya.hsd.detectors.letterbox import chunks
from sga_kohya.hsd.detectors.onnx.model import first_line, load
from sga_kohya.hsd.detectors.options import Options
from sga_kohya.hsd.photos.scaling import resize
from sga_kohya.kit.text import UnreadableText, read_text
from sga_kohya.kit.values import existing, names, number, one_of

WHO = "captioner wd"
TAGS = "selected_tags.csv"
GENERAL, CHARACTER, RATING = "0", "4", "9"
"""Danbooru's categories, as the list has them."""
WHITE = 255


@dataclass(frozen=True)
class TagList:
    """names and categories: of each score, in the model's order."""

    path: Path
    names: Sequence[str]
    categories: Sequence[str]

    @classmethod
    def read(cls, path: Path) -> "TagList":
        """A .csv with the columns name and category. Raises SgaError."""
        try:
            rows = list(csv.DictReader(io.StringIO(read_text(path))))
        except UnreadableText as error:
            raise SgaError(f"{WHO}: {path} {error.reason}") from None
        if not rows or not {"name", "category"} <= rows[0].keys():
            raise SgaError(f"{WHO}: {path} has no columns name and category: give the {TAGS} of the model")
        return cls(path, [row["name"] or "" for row in rows], [row["category"] or "" for row in rows])


class Tagger:
    """scores in [0, 1] of pictures. One run on a white one shows that file and list belong together."""

    def __init__(self, path: str, tags: TagList, device: str) -> None:
        """Raises SgaError for a model that is no such tagger."""
        self._path, self._session = path, load(path, device, WHO)
        (self._input, *more), outputs = self._session.get_inputs(), self._session.get_outputs()
        batch, *shape = self._input.shape
        if more or len(shape) != 3 or shape[2] != 3 or not isinstance(shape[0], int) or shape[0] != shape[1]:
            shown = [list(node.shape) for node in (self._input, *more)]
            raise SgaError(f"{WHO}: {path} takes {shown}, not (N, SIDE, SIDE, 3) as WD14's taggers in ONNX do")
        self._side, self._output = shape[0], outputs[0].name
        self._batch = batch if isinstance(batch, int) and batch > 0 else 1
        # Threads of ONNX Runtime inside each of ours would only wait for each other.
        self._one_at_a_time = threading.Lock()
        scores = self._run([np.full((8, 8, 3), WHITE, np.uint8)] * self._batch)
        if scores.shape[1:] != (len(tags.names),):
            raise SgaError(
                f"{WHO}: {path} gives {list(scores.shape[1:])} scores and {tags.path} has {len(tags.names)} tags: they "
                "are not of one model"
            )
        if not (scores.min() >= 0 and scores.max() <= 1):
            raise SgaError(f"{WHO}: {path} gives {scores.min():g} to {scores.max():g}, not scores in 0 to 1")

    def scores(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(H, W, 3) RGB uint8 each, to a score for each tag."""
        with self._one_at_a_time:
            return [row for chunk, real in chunks(pictures, self._batch) for row in self._run(chunk)[:real]]

    def _run(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        batch = np.stack([squared(pixels, self._side)[..., ::-1] for pixels in pictures]).astype(np.float32)
        try:
            scores: np.ndarray = self._session.run([self._output], {self._input.name: batch})[0]
        except Exception as error:  # ONNX Runtime's own exceptions have no common base
            raise SgaError(f"{WHO}: {self._path} fails on a picture: {first_line(error)}") from error
        return scores.astype(np.float32)


class WdCaptioner:
    name = "wd"

    def __init__(
        self,
        tagger: Tagger,
        tags: TagList,
        thresholds: Mapping[str, float],
        rating: bool,
        left_out: Mapping[str, Collection[str]],
    ) -> None:
        """thresholds: lowest score by category; tags of others are not used. rating: the best of them stands last.

        left_out: tags that a level does not get, as they are written.
        """
        self._tagger, self._thresholds, self._rating, self._left_out = tagger, thresholds, rating, left_out
        self._tags, self._categories = [readable(name) for name in tags.names], np.array(tags.categories)

    def describe(self, slices: Sequence[Slice]) -> list[str | None]:
        found = self._tagger.scores([piece.pixels for piece in slices])
        return [self._line(scores, piece.level) for scores, piece in zip(found, slices, strict=True)]

    def _line(self, scores: np.ndarray, level: str) -> str:
        """The tags of a picture: category by category, each in the list's order, most common first."""
        chosen = [
            int(number)
            for category, threshold in self._thresholds.items()
            for number in np.flatnonzero((self._categories == category) & (scores >= threshold))
        ]
        ratings = np.flatnonzero(self._categories == RATING)
        if self._rating and len(ratings):
            chosen.append(int(ratings[scores[ratings].argmax()]))
        tags = [self._tags[number] for number in chosen]
        return ", ".join(tag for tag in tags if tag not in self._left_out[level])


def readable(tag: str) -> str:
    """With spaces for underscores; a face, such as ^_^ or o_o, stays one."""
    return tag.replace("_", " ") if re.search(r"[^\W\d_]{2}", tag) else tag


def squared(pixels: np.ndarray, side: int) -> np.ndarray:
    """(H, W, 3) in the middle of a white square, to (side, side, 3)."""
    height, width = pixels.shape[:2]
    edge = max(height, width)
    top, left = (edge - height) // 2, (edge - width) // 2
    borders = (top, edge - height - top, left, edge - width - left)
    padded = cv2.copyMakeBorder(np.ascontiguousarray(pixels), *borders, cv2.BORDER_CONSTANT, value=(WHITE,) * 3)
    if edge >= side:
        return cv2.resize(padded, (side, side), interpolation=cv2.INTER_AREA)
    return resize(padded, (side, side))


def create(options: Options, photos: Path) -> WdCaptioner:
    model, tags = options.read("model", existing), options.read("tags", existing)
    threshold = options.read("threshold", number(0, 1), 0.35)
    general = options.read("general_threshold", number(0, 1), threshold)
    character = options.read("character_threshold", number(0, 1), threshold)
    rating = options.read("rating", one_of(("no", "last")), "no") == "last"
    left_out = options.per_level("left_out", lambda value: [readable(tag) for tag in names(value)], lambda level: [])
    if model is None and not options.problems:
        options.problems.append(f"no model: give model=FILE.onnx, with {TAGS} beside it or as tags=FILE.csv")
    options.finish()
    assert model is not None
    tags = tags or model.with_name(TAGS)
    if not tags.is_file():
        raise SgaError(f"{WHO}: no {tags}: give the model's list of tags as tags=FILE.csv")
    listed = TagList.read(tags)
    thresholds = {GENERAL: general, CHARACTER: character}
    return WdCaptioner(Tagger(str(model), listed, options.device), listed, thresholds, rating, left_out)
