"""Text files that a command writes again at its next run, and how it knows whether anyone has edited them since.

A sealed file begins with the command's header and with the digest of all that follows; a JSON file has both in the
first key of its first entry.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from sga_kohya.kit.files import move

SEAL = "# sha256 of all below: "
_DIGITS = 64


def sealed(header: str, body: str) -> str:
    """header: a comment of one line, which says who writes the file."""
    return f"{header.rstrip()}\n{SEAL}{_digest(body)}\n{body}"


def sealed_json(header: str, entries: Sequence[Mapping[str, object]]) -> str:
    """A list of objects, which has no room for a comment. Their reader must pass a key over that it does not know."""
    opening, body = "[\n  {\n", json.dumps(list(entries), indent=2, ensure_ascii=False) + "\n"
    body = body.removeprefix(opening)
    return f'{opening}    "written_by": "{header.rstrip()} {SEAL}{_digest(body)}",\n{body}'


def resealed(text: str) -> str:
    """A sealed text whose body was changed by a command."""
    head, _, rest = text.partition(SEAL)
    line, _, body = rest.partition("\n")
    return f"{head}{SEAL}{_digest(body)}{line[_DIGITS:]}\n{body}"


def is_untouched(path: Path) -> bool:
    """Whether a file is as it was sealed; one that is not there is."""
    if not path.exists():
        return True
    text = path.read_bytes().decode(errors="replace")
    _, _, rest = text.partition(SEAL)
    line, _, body = rest.partition("\n")
    return line[:_DIGITS] == _digest(body)


def set_edited_aside(path: Path) -> Path | None:
    """Move a sealed file that was edited out of the way of a new one. Returns its new place, None if it stays."""
    return None if is_untouched(path) else set_aside(path)


def set_aside(path: Path) -> Path:
    """Move a file out of the way of a new one, NAME.toml to NAME.edited.toml. Returns its new place."""
    numbers = ["", *(f"-{number}" for number in range(2, 1000))]
    places = (path.with_name(f"{path.stem}.edited{number}{path.suffix}") for number in numbers)
    place = next(place for place in places if not place.exists())
    move(path, place)
    return place


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
