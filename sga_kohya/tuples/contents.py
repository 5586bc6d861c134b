"""What the files of a dataset were when a state was saved, so that a resumed run can say what has changed since.

Sizes, dates and captions: nothing is read for it that the host has not read, or that a directory does not tell.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

FILE = "sga_data.json"
_SHOWN = 3


class Sample(NamedTuple):
    """size: of the image file, in bytes. time: when it was written, in seconds. caption: a digest."""

    size: int
    time: int
    caption: str


Contents = Mapping[str, Sample]
"""By folder and file name, because a dataset that was moved is still the same."""


def sample_of(path: Path, caption: object) -> tuple[str, Sample]:
    """Name and sample of an image. path: its file; one that is not there counts as empty."""
    try:
        status = path.stat()
        size, time = status.st_size, int(status.st_mtime)
    except OSError:
        size = time = 0
    digest = hashlib.sha256(repr(caption).encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{path.parent.name}/{path.name}", Sample(size, time, digest)


def save(contents: Contents, folder: Path) -> None:
    """Into a folder that is itself not yet in place."""
    (folder / FILE).write_text(json.dumps(contents), encoding="utf-8")


def load(folder: Path) -> Contents | None:
    """None where the state was saved without."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return {name: Sample(*sample) for name, sample in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def changes(before: Contents, now: Contents) -> list[str]:
    """What is different, in words, such as "2 images are new (1_macro/a.png, 1_macro/b.png)"."""
    common = [name for name in before if name in now]
    redated = [name for name in common if before[name].time != now[name].time]
    # Where most dates differ, the files were copied, and dates tell nothing.
    dated = set() if 2 * len(redated) > len(common) else set(redated)
    found = {
        "{} new": [name for name in now if name not in before],
        "{} gone": [name for name in before if name not in now],
        "{} edited": [name for name in common if before[name].size != now[name].size or name in dated],
        "{} of another caption": [name for name in common if before[name].caption != now[name].caption],
    }
    return [words.format(_count(names)) + f" ({_names(names)})" for words, names in found.items() if names]


def _count(names: Sequence[str]) -> str:
    return "1 image is" if len(names) == 1 else f"{len(names)} images are"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
