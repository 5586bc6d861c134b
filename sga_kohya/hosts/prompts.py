"""Texts that a trainer reads as strict UTF-8, and of these the sample prompts."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sga_kohya.kit.text import safe

AS_UTF_8 = "In your editor, save it as UTF-8"
MARK = "\ufeff"


def prompt_problems(options: Mapping[str, Any], host: str) -> Iterator[str]:
    """A file of sample prompts is read when the first samples are made, which may be hours later."""
    if not options.get("sample_prompts"):
        return
    path = Path(str(options["sample_prompts"]))
    text = as_host(path) if path.is_file() else ""
    if not path.is_file():
        yield f"--sample_prompts {path}: {path.absolute()} does not exist; correct the path, or leave the option out"
    elif text is None:
        yield f"--sample_prompts {names_of([path])}: not UTF-8, which stops {host}. {AS_UTF_8}"
    elif text.startswith(MARK) and path.suffix != ".txt":
        yield f"--sample_prompts {names_of([path])}: a byte order mark in front stops {host}. {AS_UTF_8} without BOM"


def as_host(file: Path) -> str | None:
    """What a trainer reads, None where it fails."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def names_of(files: Sequence[Path]) -> str:
    return safe(str(files[0])) + (f" and {len(files) - 1} more" if len(files) > 1 else "")
