"""How much memory the photos in flight may take together, whatever their sizes and however many threads there are."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from threading import Condition

from sga_kohya.errors import SgaError

SHARE, MOST, UNKNOWN = 1 / 4, 4 * 10**9, 2 * 10**9
"""Of the machine's or container's memory that is taken unless told otherwise, in bytes at most, and where none says."""
UNITS = {"MB": 10**6, "GB": 10**9}


class Memory:
    """Bytes by photo, as they are estimated before it is decoded and as they are afterwards. For several threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waited = 0
        """Photos that others had to make room for."""
        self._held: dict[str, int] = {}
        self._changed = Condition()

    def fits(self, size: int) -> bool:
        """Whether there is room for so many bytes; alone, a photo may be larger than all of it."""
        with self._changed:
            held = sum(self._held.values())
            return not held or held + size <= self.limit

    def take(self, source: str, size: int) -> None:
        """Waits until there is room. Only for a thread that keeps no other from making some."""
        with self._changed:
            self._changed.wait_for(lambda: self.fits(size))
            self.hold(source, size)

    def hold(self, source: str, size: int) -> None:
        """A photo has so many bytes now, 0 when it is gone."""
        with self._changed:
            self._held.pop(source, None)
            if size:
                self._held[source] = size
            self._changed.notify_all()


def usual_size(processes: int = 1, root: Path = Path("/")) -> int:
    """Bytes for a run that is told nothing, of each of so many processes on this machine.

    root: of the file system that tells what a container may take.
    """
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return UNKNOWN // processes
    return min(MOST, int(SHARE * min([machine, *container_limits(root)]) / processes))


def container_limits(root: Path = Path("/")) -> Iterator[int]:
    """Bytes that the process's control groups may take together, where they are bounded: version 2, or 1 of Linux.

    A container's own are mounted as if they were the uppermost; elsewhere each of a group's parents bounds it as well.
    """
    for hierarchy, mount, file in _groups(root):
        for group in (hierarchy, *hierarchy.parents):
            with suppress(OSError, ValueError):  # "max"; a group that is named but not mounted
                yield int((root / mount / str(group).lstrip("/") / file).read_text(encoding="utf-8"))


def _groups(root: Path) -> Iterator[tuple[PurePosixPath, str, str]]:
    """The process's group in each hierarchy that bounds memory, where that is mounted, and the file of the bound."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):  # no Linux
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)  # ID:CONTROLLER,CONTROLLER:/GROUP, no controllers in version 2
        if not controllers:
            yield PurePosixPath(group), "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            yield PurePosixPath(group), "sys/fs/cgroup/memory", "memory.limit_in_bytes"


def parse_size(text: str) -> int:
    """Bytes of 2GB, 500MB or 1.5 GB. Raises SgaError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([MG]B)", text.strip(), re.IGNORECASE)
    size = float(match[1]) * UNITS[match[2].upper()] if match else 0
    if not size:
        raise SgaError(f"--memory {text}: write a number above 0 with MB or GB, such as 2GB")
    return int(size)


def shown_size(size: int) -> str:
    """As `parse_size` reads it, such as 1.5GB."""
    return f"{size / 10**9:.3g}GB" if size >= 10**9 else f"{size / 10**6:.3g}MB"
