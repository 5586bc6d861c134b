"""The detector `vlm`: one question a view for all levels."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sga_kohya.hsd.detect import Detection, View
from sga_kohya.hsd.detectors.classes import Found
from sga_kohya.hsd.detectors.labels import phrases
from sga_kohya.hsd.detectors.letterbox import best_first, to_detection
from sga_kohya.hsd.detectors.options import Options
from sga_kohya.hsd.detectors.vlm.clients import HttpClient
from sga_kohya.hsd.detectors.vlm.interview import Interview, Question, Terms
from sga_kohya.hsd.detectors.vlm.reply import RELATIVE, question, read_reply
from sga_kohya.hsd.out.manifest import MANIFEST
from sga_kohya.hsd.photos.finding import find_images
from sga_kohya.kit.values import one_of


class VlmDetector:
    name = "vlm"

    def __init__(self, interview: Interview, terms: Terms, labels: Mapping[str, Sequence[str]], pixels: bool) -> None:
        """labels: phrases by level, coarse to fine. pixels: ask for boxes in the sent picture's pixels, not in
        thousandths."""
        self._interview, self._terms, self._labels, self._pixels = interview, terms, labels, pixels
        self._coarsest, *self._finer = labels

    @property
    def unanswered(self) -> set[str]:
        return self._interview.unanswered

    def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
        # The finer levels are asked for in one question; the coarsest, in split mode, before there are regions.
        levels = [self._coarsest] if level == self._coarsest else self._finer
        asked = tuple(dict.fromkeys(label for name in levels for label in self._labels[name]))
        found = self._interview.side_by_side(lambda view: self._find(view, asked), views)
        return [
            best_first(
                [
                    to_detection(_in_pixels(corners, view.size), score, level, label, view.size)
                    for corners, score, label in answer
                    if label in self._labels[level]
                ]
            )
            for view, answer in zip(views, found, strict=True)
        ]

    def _find(self, view: View, labels: Sequence[str]) -> list[Found]:
        """What the model answers; nothing, with a warning, when no attempt gives a reply that can be used."""
        jpeg, size = self._terms.jpeg(view.pixels)
        # What the right and lower edges are called in the answer.
        extent = size if self._pixels else (RELATIVE, RELATIVE)
        asked = Question(view.source, question(labels, size if self._pixels else None), jpeg)
        return self._interview.answer(asked, lambda text: read_reply(text, labels, extent), "with JSON only") or []


def _in_pixels(corners: Sequence[float], size: tuple[int, int]) -> list[float]:
    """From shares of a view to its pixels."""
    return [edge * side for edge, side in zip(corners, size * 2, strict=True)]


def create(options: Options, photos: Path) -> VlmDetector:
    coordinates = options.read("coordinates", one_of(("relative", "pixels")), "relative")
    terms, labels = Terms.read(options, max_new_tokens=1024), phrases(options)
    options.finish()
    interview = terms.interview("detector vlm")
    if isinstance(interview.client, HttpClient):
        announce(interview, interview.client.url, photos, terms.side)
    return VlmDetector(interview, terms, labels, coordinates == "pixels")


def announce(interview: Interview, url: str, photos: Path, side: int) -> None:
    """What the run will ask of a server that may cost money, before it does."""
    count = len(find_images(photos, photos / ".", [MANIFEST]).images) if photos.is_dir() else 0
    print(
        f"vlm: {count} photos go to {url} ({interview.client.model}), one call a region, each a JPEG of at most {side} "
        f"pixels, {interview.limits}",
        file=sys.stderr,
    )
