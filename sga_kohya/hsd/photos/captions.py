"""Captions: the photo's own, else the user's, else words of its folder or file name; less what a slice does not show.

Never empty, and never what a file might have meant: one that cannot be read with certainty is refused.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sga_kohya.errors import SgaError
from sga_kohya.hsd.cut.geometry import Box, intersection
from sga_kohya.hsd.detect import Detection
from sga_kohya.hsd.photos.label_lines import is_label_line
from sga_kohya.hsd.photos.tags import first_words, is_tag_list, plain_tag, with_prefix, with_words, without
from sga_kohya.kit.text import UnreadableText, lines_of, read_text, safe

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

NOTHING_KNOWN = "photo"
SEVERAL_LINES = (
    "caption of several lines: sd-scripts reads the first, with enable_wildcard one by chance; musubi-tuner all"
)

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


KEEPS = ("caption", "trigger", "nothing")
"""What of a photo's own caption may stand in front of a captioner's words."""


class UnreadableCaption(SgaError):
    """A caption file whose words cannot be known: its name and why."""


@dataclass(frozen=True)
class CaptionEvidence:
    """What is known of a slice. crop: its frame, region: that of its region's coarsest crop, detections: all that was
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


@dataclass(frozen=True)
class Words:
    """What a captioner makes of a slice's caption.

    said: in its words, a line. keep: one of KEEPS. trigger: the words to stand in front, whatever the photo's caption
    has there; "" for those of the caption. label: what the detector took the slice for.
    """

    said: str = ""
    keep: str = "caption"
    trigger: str = ""
    label: str = ""

    def front_of(self, line: str) -> str:
        """What stays of a line of the photo's caption."""
        if self.keep == "caption" and (not self.trigger or line.startswith(self.trigger)):
            return line
        if self.keep == "caption":
            return with_words(self.trigger, line)
        return "" if self.keep == "nothing" else self.trigger or first_words(line)


NO_WORDS = Words()
"""Of the photo's caption all stays, and nothing is added."""


def slice_caption(
    caption: str, evidence: CaptionEvidence, prefix: str = "", drop_tags: bool = True, words: Words = NO_WORDS
) -> str:
    """The caption of one slice: each line of the photo's, less tags of what it does not show, with the level's prefix.

    Only a line of comma-separated tags loses any; prose stays as it is. What stays in place, and where the prefix goes:
    see `without` and `with_prefix`. words: of a captioner, to stand behind what they keep of it.
    """
    lines = lines_of(caption)
    if drop_tags:
        lines = [without(line, lambda tag: _drops(tag, evidence)) if is_tag_list(line) else line for line in lines]
    fronts = [words.front_of(line) for line in lines or [""]]
    if words.keep != "caption":  # lines that differed in what is not kept
        fronts = list(dict.fromkeys(fronts))
    written = [with_words(front, words.said, prefix) for front in fronts]
    return "\n".join(filter(None, written)) or with_prefix(words.label or NOTHING_KNOWN, prefix)


def _drops(tag: str, evidence: CaptionEvidence) -> bool:
    return (evidence.is_part and tag in FRAMING_TAGS) or evidence.hides(tag)


def _names(tag: str, label: str) -> bool:
    """Whether a plain tag is about a detector's label: it ends with it, in singular or plural ("red shoes", "shoe")."""
    tag_words, label_words = ([_singular(word) for word in text.split()] for text in (tag, plain_tag(label)))
    return bool(label_words) and tag_words[-len(label_words) :] == label_words


def _singular(word: str) -> str:
    irregular = {"feet": "foot", "people": "person", "men": "man", "women": "woman", "leaves": "leaf"}
    if word in irregular:
        return irregular[word]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


@dataclass(frozen=True)
class Caption:
    """What a photo trains on. text: a line, or several. guessed: nobody has written it, it is words of a name.

    meant: somebody wants it there, as in a folder that is named for kohya's tools; not so in other names.
    """

    text: str
    guessed: bool = False
    meant: bool = True

    @property
    def notes(self) -> Sequence[str]:
        """What its owner may not expect of it."""
        return (SEVERAL_LINES,) if "\n" in self.text else ()


def find_caption(photo: Path, folder: Path, default: str = "") -> Caption:
    """The caption of a photo below `folder`.

    Every line with words of the caption file beside it; else `default`; else what kohya's tools take from the nearest
    folder that is named for them, "sks dog" from "10_sks dog"; else the words of the first of these that has any: its
    sub-folder, its name, `folder`'s name; else "photo". Raises UnreadableCaption.
    """
    written = read_sidecar(photo) or "\n".join(lines_of(default))
    if written:
        return Caption(written)
    folders = [path.name for path in photo.relative_to(folder).parents][:-1]  # from its own outwards
    kohya = _kohya_words([*folders, folder.resolve().name])
    return Caption(kohya or _words_of_names(photo, folder, folders), guessed=True, meant=bool(kohya))


def read_sidecar(photo: Path) -> str:
    """Lines with words of PHOTO.txt or PHOTO.caption, "" when there are none. Raises UnreadableCaption, OSError."""
    for suffix in SIDECARS:
        sidecar = photo.with_suffix(suffix)
        if sidecar.is_file():
            lines = _read_lines(sidecar)
            if lines and not is_label_line(lines[0]):  # a YOLO annotation has the photo's name, too
                return "\n".join(lines)
    return ""


def _read_lines(sidecar: Path) -> list[str]:
    try:
        return lines_of(read_text(sidecar))
    except UnreadableText as error:
        raise UnreadableCaption(f"{sidecar.name} {error.reason}") from None
    except OSError as error:
        # Out of reach, like a photo that is: what earlier runs made of it is not wrong for that.
        raise OSError(error.errno, f"{sidecar.name}: {error.strerror}") from None


def _kohya_words(folders: Sequence[str]) -> str:
    """Of the first folder that is named for kohya's tools; "" where none is."""
    for name in folders:
        # As sd-scripts reads --train_data_dir: everything behind the repeats is the class, with a trigger word or not.
        repeats, _, words = name.partition("_")
        # 2024_05_03 is a date; what is not safe to show is no line of UTF-8 either.
        if repeats.isdecimal() and any(map(str.isalpha, words)) and words == safe(words):
            return words.strip()
    return ""


def _words_of_names(photo: Path, folder: Path, folders: Sequence[str]) -> str:
    """folders: names, from the photo's own outwards."""
    return _words(folders[0] if folders else "") or _words(photo.stem) or _words(folder.resolve().name) or NOTHING_KNOWN


def _words(name: str) -> str:
    found = (word for run in re.findall(r"[^\W_]+", name) for word in _words_of(run))
    return " ".join(word for word in found if re.sub(r"\d", "", word).casefold() not in CAMERA_WORDS)


def _words_of(run: str) -> list[str]:
    """The words in letters and digits: all of "p3rs0n", which somebody has thought of, "trip" of "2024trip"."""
    letters = sum(map(str.isalpha, run))
    if run[0].isalpha() and letters > len(run) - letters and letters >= 3:
        return [run]
    return [word for word in re.findall(r"[^\W\d_]+", run) if len(word) >= 3 or _is_dense(word)]


def _is_dense(word: str) -> bool:
    """Whether a letter of it can be a word: those of Chinese, Japanese and Korean."""
    return any("\u3040" <= letter <= "\u9fff" or "\uac00" <= letter <= "\ud7a3" for letter in word)
