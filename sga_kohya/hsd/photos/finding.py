"""The image files below a folder, and what else lies there."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sga_kohya.kit.pictures import SUFFIXES

BESIDE = {
    *(".txt", ".caption", ".npz", ".json", ".jsonl", ".toml", ".yaml", ".yml", ".csv", ".xml", ".md", ".html", ".htm"),
    *(".ini", ".db", ".lock", ".log", ".xmp", ".aae", ".part", ".safetensors"),
}
"""What lies beside photos and is none: captions, annotations, caches, what systems and tools leave behind."""


@dataclass
class Found:
    """What lies in a folder. images: in order. The rest, below the folder with '/', is not read, so it has to be said:

    unreadable: folder to why. linked: folders that are links. results: folders of earlier runs. others: suffix to the
    files that are neither pictures nor anything that lies beside them.
    """

    images: list[Path] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    linked: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    others: dict[str, list[str]] = field(default_factory=dict)


def find_images(folder: Path, skip: Path, markers: Collection[str]) -> Found:
    """Image files below `folder`, sorted within each folder, and what else is there.

    Hidden files and folders are passed over, and so are `skip` and every sub-folder that holds a file named as one of
    `markers`: results of this and of earlier runs are not photos. Raises OSError when `folder` itself cannot be read.
    """
    found = Found()

    def refused(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise error
        found.unreadable[_below(Path(error.filename), folder)] = error.strerror or str(error)

    for parent, folders, files in os.walk(folder, onerror=refused):
        here = Path(parent)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and (here / name).resolve() != skip)
        if here != folder and not set(markers).isdisjoint(files):
            found.results.append(_below(here, folder))
            folders.clear()
            continue
        found.linked += [_below(here / name, folder) for name in folders if (here / name).is_symlink()]
        for name in sorted(files):
            if not name.startswith("."):
                _sort_in(here / name, folder, found)
    return found


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _sort_in(path: Path, folder: Path, found: Found) -> None:
    suffix = path.suffix.lower()
    if suffix in SUFFIXES and _may_be_read(path):
        found.images.append(path)
    elif suffix not in BESIDE:
        found.others.setdefault(suffix, []).append(_below(path, folder))


def _may_be_read(path: Path) -> bool:
    """A broken link and a file whose folder hides it count, so that they are reported; a pipe or a device does not, as
    reading it might never end."""
    try:
        return path.is_file() or not path.exists()
    except OSError:
        return True


def sample(sources: Sequence[str], count: int | None) -> list[str]:
    """`count` of them, evenly spread from the first to the last; all where there are no more."""
    if count is None or count >= len(sources):
        return list(sources)
    return [sources[i * len(sources) // count] for i in range(count)]
