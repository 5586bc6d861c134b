"""What a .safetensors file says of itself, from its header alone: no tensor is read."""

import json
from pathlib import Path
from typing import Any

from sga_kohya.errors import SgaError

METADATA = "__metadata__"
_LENGTH = 8  # bytes in front of the header, its size as a little-endian number


def read_header(file: Path) -> dict[str, Any]:
    """The names of a file's tensors and its `__metadata__`, texts by name. Raises SgaError when it is none."""
    try:
        return _read(file)[0]
    except (OSError, ValueError, RecursionError):
        raise SgaError(f"{file}: no safetensors file, or cut short; download it again, or make it anew") from None


def tensor_shapes(file: Path) -> dict[str, list[int]]:
    """Names and shapes of its tensors. Nothing of a file that is not there, or that is no .safetensors by its name.

    Raises SgaError where it is one by its name only.
    """
    if file.suffix != ".safetensors" or not file.is_file():
        return {}
    header = read_header(file)
    try:
        return {name: [int(side) for side in entry["shape"]] for name, entry in _tensors(header).items()}
    except (KeyError, TypeError, ValueError):
        raise SgaError(f"{file}: a tensor in it has no shape; download it again, or make it anew") from None


def is_whole(file: Path) -> bool:
    """Whether the file ends where its header says."""
    try:
        header, begin = _read(file)
        ends = [entry["data_offsets"][1] for entry in _tensors(header).values()]
        return file.stat().st_size == begin + max(ends, default=0)
    except (ValueError, RecursionError, KeyError, IndexError, TypeError):
        return False


def _read(file: Path) -> tuple[dict[str, Any], int]:
    """The header, and where the tensors begin."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(_LENGTH), "little")
        if size > file.stat().st_size:
            raise ValueError
        header = json.loads(stream.read(size))
    if not isinstance(header, dict) or not _are_words(header.setdefault(METADATA, {})):
        raise ValueError
    return header, _LENGTH + size


def _tensors(header: dict[str, Any]) -> dict[str, Any]:
    return {name: entry for name, entry in header.items() if name != METADATA}


def _are_words(metadata: object) -> bool:
    return isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
