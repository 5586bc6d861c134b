"""Where the photos of an OUT lie, and pictures of them that are larger than the report's, made once."""

import json
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np

from sga_kohya.errors import SgaError
from sga_kohya.hsd.clips.looking import middle_of
from sga_kohya.hsd.clips.reading import Damage
from sga_kohya.hsd.out.strips import view
from sga_kohya.hsd.photos.images import UnreadableImage, decode_image
from sga_kohya.kit.files import sha256, write_whole
from sga_kohya.kit.pictures import is_clip

FOLDER = ".sga_review"
"""Of the review's own files in OUT. All of it can be made again, and no trainer reads a folder of such a name."""
PHOTOS = "photos.json"
LARGE = 1600
"""Longer side, in pixels, of the picture on which boxes are drawn."""


def remember_photos(out: Path, photos: Path) -> None:
    """Not in the manifest, whose rows must not depend on where PHOTOS lies."""
    folder = out / FOLDER
    folder.mkdir(exist_ok=True)
    write_whole(folder / PHOTOS, json.dumps({"photos": str(photos)}))


def photos_of(out: Path) -> Path | None:
    """Where the last run found them, if there is such a folder now."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        folder = Path(json.loads((out / FOLDER / PHOTOS).read_text(encoding="utf-8"))["photos"])
        return folder if folder.is_dir() else None
    return None


class LargePictures:
    """JPEGs of photos, kept in OUT. Safe for several threads; one photo is decoded at a time, as it may be huge."""

    def __init__(self, out: Path, photos: Path | None) -> None:
        self.folder, self.photos, self._decoding = out / FOLDER, photos, threading.Lock()

    def of(self, source: str, digest: str) -> bytes | None:
        """None where the photo is not there, is no longer the one with that digest, or cannot be read."""
        kept = self.folder / f"{digest}.jpg"
        with self._decoding:
            if kept.is_file():
                return kept.read_bytes()
            if self.photos is None:
                return None
            with suppress(OSError, UnreadableImage, Damage, SgaError):
                pixels = _pixels(self.photos / source, digest)
                if pixels is not None:
                    picture = view(pixels, LARGE)
                    write_whole(kept, picture)
                    return picture
        return None


def _pixels(file: Path, digest: str) -> np.ndarray | None:
    """Of a photo, or of the middle of a clip, if it is the file with that digest. Raises what reading raises."""
    if sha256(file) != digest:
        return None
    return middle_of(file) if is_clip(file) else decode_image(file.read_bytes())[0]
