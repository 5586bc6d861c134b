"""Where the photos of an OUT lie, and pictures of them that are larger than the report's, made once."""

import json
import threading
from contextlib import suppress
from pathlib import Path

from sga_kohya.hsd.out.ledger import digest
from sga_kohya.hsd.out.strips import view
from sga_kohya.hsd.photos.images import UnreadableImage, decode_image
from sga_kohya.kit.files import write_whole

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

    def of(self, source: str, sha256: str) -> bytes | None:
        """None where the photo is not there, is no longer the one with that digest, or cannot be read."""
        kept = self.folder / f"{sha256}.jpg"
        with self._decoding:
            if kept.is_file():
                return kept.read_bytes()
            if self.photos is None:
                return None
            with suppress(OSError, UnreadableImage):
                data = (self.photos / source).read_bytes()
                if digest(data) == sha256:
                    picture = view(decode_image(data)[0], LARGE)
                    write_whole(kept, picture)
                    return picture
        return None
