"""Which files are pictures, and which are clips: one list for every command that reads photos with Pillow.

`hosts/` has a list of its own, because that one says what the host reads, which is less.
"""

from pathlib import Path

SUFFIXES = frozenset(
    {
        *(".avif", ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".png", ".apng", ".webp"),
        *(".j2c", ".j2k", ".jp2", ".jpc", ".jpf", ".jpx"),  # JPEG 2000
        *(".pbm", ".pcx", ".pgm", ".pnm", ".ppm", ".psd", ".qoi", ".tga", ".tif", ".tiff"),
        # with a Pillow plugin; without it they are reported by name instead of being passed over in silence
        *(".heic", ".heif", ".hif", ".jxl"),
    }
)

RAW = frozenset(
    {
        *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw"),
        *(".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
    }
)
"""Sensor data of cameras. Pillow opens some of them, but as the thumbnail that lies in front."""

CLIPS = frozenset(
    {
        *(".3gp", ".asf", ".avi", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"),
        *(".mxf", ".ogm", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
    }
)
"""Which files are clips. Animated pictures stay pictures."""


def is_picture(path: Path) -> bool:
    """By the name alone."""
    return path.suffix.lower() in SUFFIXES


def is_clip(path: Path) -> bool:
    """By the name alone."""
    return path.suffix.lower() in CLIPS
