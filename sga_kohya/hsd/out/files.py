"""Which files of OUT belong to a row, and what they are called."""

import hashlib
import posixpath
from collections.abc import Mapping, Sequence

MASKS = "masks_"
"""In front of a level's folder: that of its masks."""
STRIPS = "report"
"""Folder of the report's pictures, one of each group and one of each photo."""


def files_of(rows: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """The files that belong to rows -> the digest that each had as it was written, "" where none is recorded.

    Only names of the form FOLDER/FILE count: the result decides what a later run may delete.
    """
    files = {}
    for row in rows:
        file = row.get("file")
        if isinstance(file, str) and is_plain(file):
            files[file] = str(row.get("sha256") or "")
            files[caption_file(file)] = str(row.get("caption_sha256") or "")
            if row.get("mask_sha256"):
                files[mask_file(file)] = str(row["mask_sha256"])
            pictures = {
                "strip_sha256": strip_file(str(row.get("group")), "frames" in row),
                "view_sha256": view_file(str(row.get("root")), "frames" in row),
            }
            files |= {name: str(row.get(known) or "") for known, name in pictures.items() if is_plain(name)}
    return files


def caption_file(file: str) -> str:
    """The caption beside a slice, as sd-scripts looks for it."""
    # Not pathlib, which takes six times as long: a rerun asks a dozen times a photo.
    return posixpath.splitext(file)[0] + ".txt"


def mask_file(file: str) -> str:
    """The mask of a slice: a file of its name, in a folder beside its own that no trainer takes for images."""
    folder, _, name = file.partition("/")
    return f"{mask_folder(folder)}/{posixpath.splitext(name)[0]}.png"


def mask_folder(folder: str) -> str:
    """Of the masks of the slices in a folder."""
    return f"{MASKS}{folder}"


def strip_file(group: str, moving: bool = False) -> str:
    """The picture of a group in the report. moving: of a clip."""
    return f"{STRIPS}/{group}.{'webp' if moving else 'jpg'}"


def view_file(root: str, moving: bool = False) -> str:
    """The picture of a photo or a clip in the report; no group has such a name, as no root holds a +."""
    return f"{STRIPS}/{root}+photo.{'webp' if moving else 'jpg'}"


def digest(data: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def is_plain(file: str) -> bool:
    """Whether it is FOLDER/FILE, and so lies below OUT wherever it comes from."""
    # Not pathlib, which takes ten times as long: this is asked of every file that ever was.
    parts = file.split("/")
    return len(parts) == 2 and not {"", ".", ".."}.intersection(parts)
