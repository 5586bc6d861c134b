"""OUT/photos_raw: of each photo that gave slices a copy as a trainer sees it, upright, in sRGB, no larger than the
resolution's area, and with its photo's mask where slices have theirs.
"""

import json
import math
import os
import shutil
import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice, takewhile
from pathlib import Path

import numpy as np

from sga_kohya.hsd.cut.geometry import Size
from sga_kohya.hsd.masks.sources import NONE, are_beside, counted
from sga_kohya.hsd.out.exports import caches_by_stem
from sga_kohya.hsd.out.files import caption_file, digest, is_plain, mask_file, mask_folder
from sga_kohya.hsd.out.manifest import Row
from sga_kohya.hsd.out.pictures import picture_files
from sga_kohya.hsd.photos.scaling import resize
from sga_kohya.hsd.settings.config import HsdConfig
from sga_kohya.kit.files import sha256, write_whole
from sga_kohya.kit.journal import Journal
from sga_kohya.kit.journal import read_rows as read_journal
from sga_kohya.kit.pictures import is_picture

RAW = "photos_raw"
FOLDERS = (RAW, mask_folder(RAW))
"""Of the copies, and of their masks where those lie beside them."""
_JOURNAL = "sga_raw.jsonl"
"""A line before each file is written, {"file", "sha256"}, for an image with what it was made "from"."""
_SHARES = "sga_raw.*.jsonl"
"""Those of several processes, by their ranks."""


@dataclass(frozen=True)
class RawPhoto:
    """A photo that is in the comparison. file: of its copy, below OUT. made_from: digest of what decides its pixels and
    its mask."""

    source: str
    file: str
    made_from: str
    caption: str


def largest(size: Size, resolution: int) -> Size:
    """Of a photo's copy: its own size, or that of the same shape whose area is at most the square of resolution."""
    width, height = size
    factor = min(1.0, resolution / math.sqrt(width * height))
    return max(1, int(width * factor)), max(1, int(height * factor))


def copy_of(row: Row, config: HsdConfig) -> tuple[str, str]:
    """A copy's file, and the digest of what decides its pixels and its mask. row: of its photo."""
    inputs = [row.source_sha256, config.resolution, config.format]
    if config.masks != NONE:
        inputs.append(row.inputs)
    return f"{RAW}/{row.root}.{config.format}", digest(json.dumps(inputs).encode())


def collect_copies(out: Path) -> None:
    """What the processes of a run have in journals of their own goes to the journal."""
    for share in sorted((out / RAW).glob(_SHARES)):
        with share.open("rb") as part, (out / RAW / _JOURNAL).open("ab") as journal:
            journal.write(b"\n")  # ends a line that a kill has cut short
            shutil.copyfileobj(part, journal)
        share.unlink()


class RawFolder:
    """OUT/photos_raw, of which the journal inside knows what was written here."""

    def __init__(self, out: Path, config: HsdConfig, rank: int | None = None) -> None:
        """rank: of one of several processes, which has a journal of its own."""
        self.out, self.path, self.config = out, out / RAW, config
        self._own = _JOURNAL if rank is None else _SHARES.replace("*", str(rank))
        if rank is None:
            collect_copies(out)
        self._lock = threading.Lock()
        rows, _ = read_journal(self.path / _JOURNAL)
        self.written: dict[str, dict[str, str]] = {}
        for row in rows:
            if is_plain(str(row.get("file"))) and str(row["file"]).split("/")[0] in FOLDERS:
                self.written[row["file"]] = row
        self._caches = sorted(path.name for path in self.path.glob("*.npz"))
        self._other_caches = caches_by_stem(out)

    @cached_property
    def _journal(self) -> Journal:
        # Not at once: after a power cut a whole file that the journal does not know is as another's, and said to be.
        return Journal(self.path / self._own, at_once=False)

    def close(self) -> None:
        if "_journal" in self.__dict__:
            self._journal.close()

    def copy(self, row: Row, pixels: np.ndarray, mask: np.ndarray | None) -> None:
        """Of a photo that gives slices, while its pixels are there. For several threads.

        row: one of the photo's. pixels: (H, W, 3) RGB uint8. mask: (H, W) uint8, None where all of it counts.
        """
        file, made_from = copy_of(row, self.config)
        if not self.holds_image(file, made_from):
            size = largest((pixels.shape[1], pixels.shape[0]), self.config.resolution)
            made = picture_files(file, resize(pixels, size), partial(counted, mask, size), self.config)
            with self._lock:
                self.write(made, made_from)

    def holds(self, rows: Sequence[Row]) -> bool:
        """Whether the copy of a photo is there that these rows are of, if it gives slices."""
        return not any(row.file for row in rows) or self.holds_image(*copy_of(rows[0], self.config))

    def holds_image(self, file: str, made_from: str) -> bool:
        """Whether it is there from the same photo, with its mask, or someone's own is there."""
        files = [file, mask_file(file)] if are_beside(self.config.masks) else [file]
        if not all((self.out / name).is_file() for name in files):
            return False
        return self.written.get(file, {}).get("from") == made_from or self.is_anothers(file)

    def holds_caption(self, photo: RawPhoto) -> bool:
        """Whether it says the same, or someone's own is there."""
        file = caption_file(photo.file)
        there = self.out / file
        return there.is_file() and (there.read_bytes() == photo.caption.encode() or self.is_anothers(file))

    def is_anothers(self, file: str) -> bool:
        """Whether it is not what was written here: edited, or made by others. An empty file is nobody's work."""
        path = self.out / file
        if not path.is_file() or not path.stat().st_size:
            return False
        return sha256(path) != self.written.get(file, {}).get("sha256")

    def write(self, contents: Mapping[str, bytes], made_from: str = "") -> None:
        """Files of one photo, unless others are there under their names. made_from: where its image is among them.

        What is there already stays, with the trainers' caches of it.
        """
        ours = {file: data for file, data in contents.items() if not self.is_anothers(file)}
        known = {file: digest(data) for file, data in ours.items()}
        there = {file: self.written.get(file, {}).get("sha256") for file in ours if (self.out / file).is_file()}
        if there != known:
            for file in ours:
                self._purge_caches(file)
        for file, data in ours.items():
            row = {"file": file, "sha256": known[file], **({"from": made_from} if made_from else {})}
            self._journal.append(row)
            if there.get(file) != known[file]:
                (self.out / file).parent.mkdir(exist_ok=True)
                write_whole(self.out / file, data)
            self.written[file] = row

    def sweep(self, kept: list[RawPhoto]) -> tuple[int, list[str]]:
        """Remove what is no longer wanted. Returns how many files went, and those that stay because they were edited.

        The journal then says the same whatever the order of the work was.
        """
        beside = (caption_file, mask_file) if are_beside(self.config.masks) else (caption_file,)
        wanted = {file for photo in kept for file in (photo.file, *(of(photo.file) for of in beside))}
        stale = [file for file in sorted(self.written.keys() - wanted) if (self.out / file).is_file()]
        left = [file for file in stale if self.is_anothers(file)]
        for file in stale:
            if file not in left:
                self._purge_caches(file)
                (self.out / file).unlink()
        lines = [json.dumps(self.written[file]) for file in sorted({*wanted, *left} & self.written.keys())]
        if lines:
            write_whole(self.path / _JOURNAL, "".join(f"{line}\n" for line in lines))
        else:
            (self.path / _JOURNAL).unlink(missing_ok=True)
        for name in FOLDERS:
            with suppress(OSError):  # not empty, or not there
                (self.out / name).rmdir()
        return len(stale) - len(left), left

    def foreign(self) -> list[str]:
        """The pictures that lie there and that no run has made."""
        found = sorted(f"{RAW}/{path.name}" for path in self.path.glob("*") if is_picture(path))
        return [file for file in found if file not in self.written]

    def _purge_caches(self, file: str) -> None:
        stem = os.path.splitext(file)[0]
        beginning = f"{Path(stem).name}_"
        first = bisect_left(self._caches, beginning)
        for name in takewhile(lambda name: name.startswith(beginning), islice(self._caches, first, None)):
            (self.path / name).unlink(missing_ok=True)
        for cache in self._other_caches.get(stem, ()):
            (self.out / cache).unlink(missing_ok=True)
