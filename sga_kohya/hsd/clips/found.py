"""Which clips lie in a folder, and which folders of OUT hold slices of some."""

import re
from collections.abc import Collection
from pathlib import Path

from sga_kohya.hsd.clips.labels import OFF
from sga_kohya.hsd.photos.finding import Found
from sga_kohya.hsd.settings.config import HsdConfig
from sga_kohya.kit.pictures import CLIPS

_FOLDER = re.compile(r"(.+)_\d+x\d+x\d+")


def take_clips(found: Found, photos: Path, config: HsdConfig) -> list[str]:
    """The clips among the files that are no pictures, below PHOTOS; they are taken out of there. None where clips are
    off, so that they are said to be passed over."""
    if config.clips == OFF:
        return []
    clips = sorted(name for suffix in CLIPS & found.others.keys() for name in found.others.pop(suffix))
    # A pipe or a device might never end; a link that leads nowhere is told when it is opened.
    return [name for name in clips if (photos / name).is_file() or not (photos / name).exists()]


def clip_folders(out: Path, labels: Collection[str]) -> list[str]:
    """Names of the folders in OUT that slices of these labels would go to."""
    if not out.is_dir():
        return []
    matches = ((path.name, _FOLDER.fullmatch(path.name)) for path in out.iterdir() if path.is_dir())
    return sorted(name for name, match in matches if match and match.group(1) in labels)
