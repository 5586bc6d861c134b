"""Captions: the photo's own, else the user's, else words of its folder or file name. Never empty."""

import re
from pathlib import Path

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
            if caption:
                return caption
    return ""


def _from_names(photo: Path, folder: Path) -> str:
    subfolder = photo.parent.name if photo.parent != folder else ""
    return _words(subfolder) or _words(photo.stem) or _words(folder.resolve().name) or "photo"


def _words(name: str) -> str:
    words = re.findall(r"[^\W\d_]{3,}", name)
    return " ".join(word for word in words if word.casefold() not in CAMERA_WORDS)
