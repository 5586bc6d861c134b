"""Captions: the photo's own, else the user's, else words of its folder or file name; less what a slice does not show.

Never empty.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sga_kohya.hsd.cut.geometry import Box, intersection
from sga_kohya.hsd.detect import Detection
from sga_kohya.hsd.photos.label_lines import is_label_line

SIDECARS = (".txt", ".caption")
CAMERA_WORDS = {
    "dsc",
    "dscf",
    "dscn",
    "file",
    "image",
    "img",
    "mvi",
    "photo",
    "pic",
    "picture",
    "pxl",
    "scan",
    "screenshot",
}
"""What cameras and phones put in every name: says nothing about the photo."""

WHOLES = {"person", "full body", "whole body"}
"""Labels of a whole figure."""
FRAMING_TAGS = {"full body", "full-body", "full length", "full shot", "wide shot", "long shot", "cowboy shot"}
"""True of a whole figure, not of a part of it."""
SHOWN = 0.25
"""Share of a detected thing that a slice must hold for the thing to be in it."""
WHOLE = 0.75
"""Share of a figure that a slice must hold to show all of it."""
PART = 0.5
"""Share of its region below which a slice is a part of it, framed otherwise."""
MAX_TAG_WORDS = 4
SENTENCE_STARTS = {
    "a",
    "an",
    "the",
    "and",
    "but",
    "or",
    "with",
    "while",
    "in",
    "on",
    "at",
    "is",
    "are",
    "there",
    "this",
}


@dataclass(frozen=True)
class CaptionEvidence:
    """What is known of a slice. crop: its frame, region: that of its group's coarsest slice, detections: all that was
    found in the photo, of any level, kept or not; all boxes in pixels of the photo."""

    crop: Box
    region: Box
    detections: Sequence[Detection] = ()

    def hides(self, tag: str) -> bool:
        """Whether the tag names something that was detected in the photo, and none of it is in the crop."""
        named = [found for found in self.detections if found.label and _names(tag, found.label)]
        return bool(named) and all(intersection(found.box, self.crop) < SHOWN * found.box.area for found in named)

    @property
    def is_part(self) -> bool:
        """Whether the crop is a small part of its region and shows no whole figure either."""
        figures = [found.box for found in self.detections if found.label.casefold() in WHOLES]
        if any(intersection(box, self.crop) > WHOLE * box.area for box in figures):
            return False
        return intersection(self.crop, self.region) < PART * self.region.area


def slice_caption(caption: str, evidence: CaptionEvidence, prefix: str = "", drop_tags: bool = True) -> str:
    """The caption of one slice: the photo's, less tags of what it does not show, behind the level's prefix.

    Only a caption of comma-separated tags loses any; a sentence stays as it is. The first tag, which often is the
    trigger word, and everything in front of sd-scripts' separator "|||" stay.
    """
    text = caption.strip() or "photo"
    if drop_tags and is_tag_list(text):
        text = _without_hidden(text, evidence)
    if not prefix.strip():
        return text
    # "close-up of A dog": an article that began a sentence no longer does.
    text = re.sub(r"^(A|An|The)\b", lambda article: article.group().lower(), text)
    return f"{prefix.rstrip()} {text}"


def is_tag_list(caption: str) -> bool:
    """Whether a caption is tags with commas between them, not prose: three or more short items, none like a clause."""
    items = [item.strip() for item in caption.replace("|||", ",").split(",")]
    items = [item for item in items if item]
    return len(items) >= 3 and all(
        len(words := item.split()) <= MAX_TAG_WORDS
        and words[0].lower() not in SENTENCE_STARTS
        and not item.endswith((".", "!", "?"))
        for item in items
    )


def _without_hidden(caption: str, evidence: CaptionEvidence) -> str:
    fixed, separator, rest = caption.rpartition("|||")
    items = rest.split(",")
    first = 0 if separator else next(i for i, item in enumerate(items) if item.strip())
    kept = [item for i, item in enumerate(items) if (i <= first and not separator) or not _drops(item, evidence)]
    if separator and not kept:
        return fixed.rstrip(" ,")
    return fixed + separator + ",".join(kept)


def _drops(tag: str, evidence: CaptionEvidence) -> bool:
    plain = _plain_tag(tag)
    return (evidence.is_part and plain in FRAMING_TAGS) or evidence.hides(plain)


def _plain_tag(tag: str) -> str:
    """Without weight, brackets and underscores: "(red_shoes:1.2)" is "red shoes"."""
    return re.sub(r":[\d.]+$", "", re.sub(r"[\\()\[\]]", "", tag).strip()).replace("_", " ").casefold()


def _names(tag: str, label: str) -> bool:
    """Whether a plain tag is about a detector's label: it ends with it, in singular or plural ("red shoes", "shoe")."""
    tag_words, label_words = ([_singular(word) for word in text.split()] for text in (tag, _plain_tag(label)))
    return bool(label_words) and tag_words[-len(label_words) :] == label_words


def _singular(word: str) -> str:
    irregular = {"feet": "foot", "people": "person", "men": "man", "women": "woman", "leaves": "leaf"}
    if word in irregular:
        return irregular[word]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def find_caption(photo: Path, folder: Path, default: str = "") -> str:
    """One line of text for a photo below `folder`.

    The first non-empty line of the caption file beside it; else `default`; else the words of the first of these that
    has any: its sub-folder (kohya's "10_" in front does not count), its name, `folder`'s name; else "photo".
    """
    return read_sidecar(photo) or default.strip() or _from_names(photo, folder)


def read_sidecar(photo: Path) -> str:
    """The first non-empty line of PHOTO.txt or PHOTO.caption, "" when there is none."""
    for suffix in SIDECARS:
        sidecar = photo.with_suffix(suffix)
        if sidecar.is_file():
            # utf-8-sig: Windows editors put a byte order mark in front, which is no part of a caption.
            lines = sidecar.read_text(encoding="utf-8-sig", errors="replace").splitlines()
            caption = next((line.strip() for line in lines if line.strip()), "")
            if is_label_line(caption):
                continue  # a YOLO annotation of the same name, not words
            if caption:
                return caption
    return ""


def _from_names(photo: Path, folder: Path) -> str:
    subfolder = photo.parent.name if photo.parent != folder else ""
    return _words(subfolder) or _words(photo.stem) or _words(folder.resolve().name) or "photo"


def _words(name: str) -> str:
    words = re.findall(r"[^\W\d_]{3,}", name)
    return " ".join(word for word in words if word.casefold() not in CAMERA_WORDS)
