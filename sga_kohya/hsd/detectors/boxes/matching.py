"""Whose annotation it is: names as they come out of the tools people annotate with, matched without guessing.

Rounds go from the strictest spelling to the loosest. What a round matches is settled; what has more than one answer in
it is never used: a looser round could only guess.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from sga_kohya.kit.pictures import SUFFIXES

Parts = tuple[str, ...]

LAYOUT = {"images", "labels", "annotations", "jpegimages", "obj_train_data"}
"""Folders that say what is in them, not whose it is."""

SPLITS = {"train", "training", "val", "valid", "validation", "test"}

ROBOFLOW = re.compile(r"(?P<name>.+)[_.-](?:jpe?g|png|webp|bmp|tiff?|avif|heic|gif)\.rf\.[0-9a-z]{6,}", re.IGNORECASE)
"""name_jpg.rf.0123456789abcdef"""

LABEL_STUDIO = re.compile(r"[0-9a-f]{8}-(?P<name>.+)", re.IGNORECASE)
"""01234567-name"""


@dataclass(frozen=True)
class Matches:
    """annotation_of: by photo. ambiguous: pairs of a photo and an annotation, one for each that has several answers.
    unmatched: annotations of no photo."""

    annotation_of: Mapping[str, str]
    ambiguous: Sequence[tuple[str, str]]
    unmatched: Sequence[str]


def as_written(name: str) -> Parts:
    """Never empty; the last part is the file, "" where there is none."""
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", ".")) or ("",)


def without_extension(name: str) -> Parts:
    *folders, file = as_written(name)
    return (*folders, _stem(file))


def folded(name: str) -> Parts:
    """URL escapes resolved, in one case and one Unicode form, without the folders that name a layout."""
    plain = unicodedata.normalize("NFC", unquote(name)).casefold()
    *folders, file = as_written(plain)
    while _stem(file) != file:  # photo.jpg.txt
        file = _stem(file)
    return (*(folder for folder in folders if folder not in LAYOUT), file)


def without_marks(name: str) -> Parts:
    """Without what Roboflow and Label Studio add to a name; they also write other characters for spaces."""
    *folders, file = folded(name)
    for pattern in (ROBOFLOW, LABEL_STUDIO):
        marked = pattern.fullmatch(file)
        file = marked["name"] if marked else file
    return (*folders, re.sub(r"[\W_]+", "_", file))


def without_split(name: str) -> Parts:
    *folders, file = without_marks(name)
    return (*(folder for folder in folders if folder not in SPLITS), file)


SPELLINGS: Sequence[Callable[[str], Parts]] = (as_written, without_extension, folded, without_marks, without_split)


def match(photos: Sequence[str], annotations: Sequence[str]) -> Matches:
    """photos: paths below PHOTOS. annotations: paths below a folder of labels, or as a COCO file has them."""
    found: dict[str, str] = {}
    ambiguous: list[tuple[str, str]] = []
    left, open_photos = list(annotations), list(photos)
    for spell, nested in [*((spell, False) for spell in SPELLINGS), (without_split, True)]:
        pairs = _pairs(open_photos, left, spell, nested)
        sure, unsure = _sure(pairs)
        found |= sure
        ambiguous += unsure
        taken, settled = {photo for photo, _ in pairs}, {name for _, name in pairs}
        open_photos = [photo for photo in open_photos if photo not in taken]
        left = [name for name in left if name not in settled]
    return Matches(found, ambiguous, left)


def _pairs(
    photos: Sequence[str], names: Sequence[str], spell: Callable[[str], Parts], nested: bool
) -> list[tuple[str, str]]:
    """All that are spelled alike; nested: also where one begins in a folder above the other."""
    alike: dict[Parts, list[tuple[Parts, str]]] = defaultdict(list)
    for name in names:
        parts = spell(name)
        alike[parts[-1:] if nested else parts].append((parts, name))
    return [
        (photo, name)
        for photo, parts in ((photo, spell(photo)) for photo in photos)
        for own, name in alike.get(parts[-1:] if nested else parts, ())
        if parts[-1] and _ends_alike(parts, own)
    ]


def _ends_alike(a: Parts, b: Parts) -> bool:
    shared = min(len(a), len(b))
    return a[-shared:] == b[-shared:]


def _sure(pairs: Sequence[tuple[str, str]]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Those whose photo and whose annotation have no other answer; and the others."""
    photos, names = Counter(photo for photo, _ in pairs), Counter(name for _, name in pairs)
    sure = {photo: name for photo, name in pairs if photos[photo] == names[name] == 1}
    return sure, [(photo, name) for photo, name in pairs if photo not in sure]


def _stem(file: str) -> str:
    """Without the extension of a picture or a label; "v1.2" has none."""
    stem, dot, extension = file.rpartition(".")
    return stem if dot and stem and f".{extension.lower()}" in {*SUFFIXES, ".txt"} else file
