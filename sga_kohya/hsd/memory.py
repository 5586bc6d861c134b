"""How much memory the photos in flight may take together, whatever their sizes and however many threads there are."""

import os
import re
from threading import Condition

from sga_kohya.errors import SgaError

SHARE, MOST, UNKNOWN = 1 / 4, 4 * 10**9, 2 * 10**9
"""Of the machine's memory that is taken unless told otherwise, in bytes at most, and where the machine does not say."""
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


def usual_size(processes: int = 1) -> int:
    """Bytes for a run that is told nothing, of each of so many processes on this machine."""
    try:
        return min(MOST, int(SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / processes))
    except (AttributeError, ValueError, OSError):  # Windows
        return UNKNOWN // processes


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
