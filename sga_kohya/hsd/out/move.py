"""A data set in another place: the files that trainers read name its folders in full, because trainers want them so."""

import json
import re
from collections.abc import Callable
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

from sga_kohya.errors import SgaError
from sga_kohya.hsd.out.exports import EXPORTS
from sga_kohya.hsd.out.exports.export import quoted
from sga_kohya.hsd.out.manifest import MANIFEST
from sga_kohya.kit.files import write_whole
from sga_kohya.kit.sealed import is_untouched, resealed
from sga_kohya.words import RAW_MUSUBI_TOML, RAW_TOML

_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"')


def move(old: str, new: str) -> tuple[Path, dict[str, int]]:
    """Make the files of a data set that was made at `old` name `new` instead. One of them has to be here.

    Returns the folder whose files were written, and the paths changed by file. A file that was edited by hand stays
    edited. Raises SgaError where there is no data set, or none of its paths lies below `old`.
    """
    folder = next((place for place in map(Path, (new, old)) if (place / MANIFEST).is_file()), None)
    if folder is None:
        raise SgaError(f"no {MANIFEST} in {new} or {old}: give the folder where the data set was made, and its new one")
    changed = {}
    for file in sorted({*(export.file for export in EXPORTS.values()), RAW_TOML, RAW_MUSUBI_TOML}):
        if (folder / file).is_file():
            changed[file] = _rewrite(folder / file, _mover(old, new))
    if not any(changed.values()):
        raise SgaError(f"no path in {', '.join(changed) or folder} lies below {old}: write it as these files do")
    return folder, changed


def _rewrite(file: Path, moved: Callable[[str], str]) -> int:
    """Returns how many paths were changed. What was sealed is sealed again."""
    text, untouched, count = file.read_text(encoding="utf-8"), is_untouched(file), 0

    def replace(match: re.Match[str]) -> str:
        nonlocal count
        before = _unquoted(match.group())
        after = moved(before)
        count += after != before
        return match.group() if after == before else quoted(after)

    new = _QUOTED.sub(replace, text)
    write_whole(file, resealed(new) if untouched else new)
    return count


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:  # an escape that only TOML or YAML has; none of ours
        return text


def _mover(old: str, new: str) -> Callable[[str], str]:
    """A path below `old` to the same below `new`; each with the separators of its own machine."""
    before, after = _pure(str(Path(old).resolve()) if Path(old).is_dir() else old), _pure(new)
    if isinstance(after, PurePosixPath) and not after.is_absolute():
        after = PurePosixPath(Path(new).absolute())

    def moved(text: str) -> str:
        path = type(before)(text)
        return str(after.joinpath(*path.relative_to(before).parts)) if path.is_relative_to(before) else text

    return moved


def _pure(text: str) -> PurePath:
    """By its drive or its share: a name may have a backslash elsewhere."""
    return PureWindowsPath(text) if re.match(r"[A-Za-z]:|\\\\", text) else PurePosixPath(text)
