"""File names: one root per photo, from which the names of its slices follow."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

DEVICES = frozenset(
    ("con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in "123456789¹²³"))
)
"""What Windows takes for a device, whatever follows behind a dot: no file there is called aux.png."""
MAX_BYTES = 120
"""Of a slug: leaves room for suffixes and for sd-scripts' cache names within the usual 255 bytes of a file name."""


def slice_stem(root: str, region: int, index: int) -> str:
    """Name of the index-th slice of a level in the region-th region, both from 1, without extension.

    ROOT, ROOT-2, ROOT-r2, ROOT-r2-2: siblings of different levels share theirs, in different folders. No root ends
    like these suffixes (see `slug`), so that no two photos can meet in one name.
    """
    return group_name(root, region) + (f"-{index}" if index > 1 else "")


def group_name(root: str, region: int) -> str:
    """The name that the slices of one region share: the stem of the first slice of each level."""
    return root + (f"-r{region}" if region > 1 else "")


def slug(name: str) -> str:
    """A stem that every system takes: letters of any script, digits, '.', '_' and '-', no dot at its end, no device.

    A stem with five or more fields between '_' loses four of them in sd-scripts, so many '_' become '-'. A final -2
    or -r2 becomes _2 or _r2, because those endings number slices.
    """
    name = re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", name))
    name = name.encode()[:MAX_BYTES].decode(errors="ignore").strip("-.")
    if name.count("_") > 2:
        name = name.replace("_", "-").strip("-.")
    first, dot, rest = name.partition(".")
    if first.casefold() in DEVICES:
        name = f"{first}_{dot}{rest}"
    return re.sub(r"-(r?\d+)$", r"_\1", name) or "photo"


def assign_roots(sources: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """A different root for each source (a path with '/' separators), differing by more than case.

    The file's stem where it is free, else the path's folders in front of it, else a hash of the path behind it.
    taken: stems in use by files that are not ours. The result depends on the set of sources, not on their order.
    """
    used = {_without_suffix(stem.casefold()) for stem in taken}
    roots: dict[str, str] = {}
    for source in sorted(sources):
        path = PurePosixPath(source).with_suffix("")
        stem = slug(path.name)
        # surrogateescape: how Python holds a file name that is not UTF-8.
        digest = hashlib.sha256(source.encode(errors="surrogateescape")).hexdigest()
        candidates = (stem, slug("-".join(path.parts)), f"{stem}-x{digest[:8]}", f"{stem}-x{digest}")
        root = next(name for name in candidates if name.casefold() not in used)
        used.add(root.casefold())
        roots[source] = root
    return roots


def _without_suffix(stem: str) -> str:
    return re.sub(r"(-r\d+)?(-\d+)?$", "", stem)
