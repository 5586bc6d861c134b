"""Class names in the order of their numbers, from whatever they are written in."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from sga_kohya.errors import SgaError
from sga_kohya.kit.text import decode_text


def in_order(names: object) -> list[str]:
    """names: a list, or a mapping from numbers, which may be written as text ("10" stands behind "2").

    A number without a name gets one, so that those behind it stay where they are. Raises ValueError.
    """
    if isinstance(names, list | tuple):
        return [str(name) for name in names]
    if not isinstance(names, Mapping):
        raise ValueError(f"names are a list or a mapping from numbers, not {names!r:.60}")
    numbered = {int(number): str(name) for number, name in names.items()}
    if not numbered or min(numbered) < 0 or max(numbered) > 100_000:
        raise ValueError(f"the numbers of {len(numbered)} names run from 0, without a minus")
    return [numbered.get(number, f"class {number}") for number in range(max(numbered) + 1)]


def read_classes(file: Path, detector: str) -> list[str]:
    """A line each, also where one is blank, or the `names` of a data.yaml. Raises SgaError."""
    try:
        text = decode_text(file.read_bytes())
        if file.suffix.lower() not in (".yaml", ".yml"):
            return [line.strip() or f"class {number}" for number, line in enumerate(text.rstrip().splitlines())]
        return in_order(yaml.safe_load(text)["names"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SgaError(f"detector {detector}: cannot read class names from {file}: {reason}") from error
