"""How sd-scripts will read captions, and what of it hurts: some files stop it, others mislead it.

It reads them as strict UTF-8, and a byte order mark as a character.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sga_kohya.hosts.prompts import AS_UTF_8, MARK, as_host, names_of
from sga_kohya.hosts.sd_scripts.folders import Folder
from sga_kohya.kit.text import decode_text, lines_of, safe

_LOST_FIELDS = 4  # a name left by face_crop tools ends in _x_y_w_h, and sd-scripts looks for the caption without them


def caption_problems(folder: Folder) -> Iterator[str]:
    """Files that end sd-scripts minutes later with a traceback: of 0 bytes (AssertionError), or not UTF-8."""
    files = sorted({file for image in folder.images() if (file := _caption_file(image, folder))})
    empty = [path for path in files if path.stat().st_size == 0]
    if empty:
        yield (
            f"{names_of(empty)}: the caption file is empty, which stops sd-scripts. Write a caption, or delete "
            "the file to train without one"
        )
    undecodable = [path for path in files if as_host(path) is None]
    if undecodable:
        yield f"{names_of(undecodable)}: the caption is not UTF-8, which stops sd-scripts. {AS_UTF_8}"


def mangled_text(files: Sequence[Path]) -> Iterator[str]:
    """Files that sd-scripts decodes, but not as their owner sees them."""
    texts = {file: text for file in files if (text := as_host(file)) is not None}
    marked = [file for file, text in texts.items() if text.startswith(MARK)]
    if marked:
        yield (
            f"{names_of(marked)}: begins with a byte order mark, which sd-scripts takes for a character of the text. "
            f"{AS_UTF_8} without BOM"
        )
    lost = {file: reason for file in texts if (reason := _what_was_lost(file))}
    if lost:
        yield f"{names_of(list(lost))}: {next(iter(lost.values()))}. Write it again, as UTF-8"


def caption_advice(folder: Folder) -> Iterator[str]:
    """What of the captions trains differently from what their owner may think."""
    captions = {image: _caption_file(image, folder) for image in folder.images()}
    files = sorted({file for file in captions.values() if file})
    yield from _taken_from_others(captions, folder)
    if not folder.enable_wildcard:
        yield from _lines_not_read(files)
    yield from mangled_text(files)
    missing = [image for image, file in captions.items() if file is None]
    # Folders named after a class are meant to have no captions; one forgotten among many is not.
    if missing and (not folder.class_tokens or len(missing) < len(captions)):
        yield _missing(missing, len(captions), folder)


def _taken_from_others(captions: Mapping[Path, Path | None], folder: Folder) -> Iterator[str]:
    taken = [(image, file) for image, file in captions.items() if file and file.stem != image.stem]
    if taken:
        yield (
            f"{names_of([image for image, _ in taken])}: no caption of its own, so sd-scripts takes that of "
            f"{names_of([taken[0][1]])}: it drops the last {_LOST_FIELDS} fields of a name with five or more, "
            f"separated by _. Write {safe(taken[0][0].stem)}{folder.caption_extension}, or rename the image"
        )


def _lines_not_read(files: Sequence[Path]) -> Iterator[str]:
    texts = {file: text for file in files if (text := as_host(file))}
    blank = [file for file, text in texts.items() if not text.partition("\n")[0].strip()]
    if blank:
        yield f"{names_of(blank)}: the first line is blank, and sd-scripts reads only that one"
    several = [file for file, text in texts.items() if file not in blank and len(lines_of(text)) > 1]
    if several:
        yield (
            f"{names_of(several)}: several lines, of which sd-scripts reads the first. Join them, or set "
            "enable_wildcard = true to train on one of them by chance"
        )


def _missing(images: Sequence[Path], of: int, folder: Folder) -> str:
    instead = f"with {folder.class_tokens!r}" if folder.class_tokens else "with an empty prompt"
    other = _other_extension(images, folder)
    return (
        f"{safe(str(folder.path))}: {len(images)} of {of} images have no {folder.caption_extension} file and train "
        f"{instead}, such as {safe(images[0].name)}"
        + (f'. There are {other} files: set caption_extension = "{other}"' if other else "")
    )


def _caption_file(image: Path, folder: Folder) -> Path | None:
    """As sd-scripts looks for it; it counts the fields of the whole path, folders included."""
    base = str(image.with_suffix(""))
    fields = base.split("_")
    bases = [base, "_".join(fields[:-_LOST_FIELDS])] if len(fields) > _LOST_FIELDS else [base]
    files = (Path(name + folder.caption_extension) for name in bases)
    return next((file for file in files if file.is_file()), None)


def _what_was_lost(file: Path) -> str:
    try:
        decode_text(file.read_bytes())
    except ValueError as error:
        return str(error)
    return ""


def _other_extension(images: Sequence[Path], folder: Folder) -> str | None:
    extensions = (".txt", ".caption")
    return next((e for e in extensions if e != folder.caption_extension and images[0].with_suffix(e).is_file()), None)
