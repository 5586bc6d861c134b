"""How sd-scripts will read a folder's captions, and what of it hurts: an empty file stops it, others mislead it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sga_kohya.hosts.sd_scripts.folders import Folder

_LOST_FIELDS = 4  # a name left by face_crop tools ends in _x_y_w_h, and sd-scripts looks for the caption without them


def empty_captions(folder: Folder) -> Iterator[str]:
    """A caption file of 0 bytes is an AssertionError in sd-scripts, minutes later and with a traceback."""
    files = {_caption_file(image, folder) for image in folder.images()} - {None}
    empty = sorted(path for path in files if path.stat().st_size == 0)
    if empty:
        yield (
            f"{_names(empty)}: the caption file is empty, which stops sd-scripts. Write a caption, or delete "
            "the file to train without one"
        )


def caption_advice(folder: Folder) -> Iterator[str]:
    """What of the captions trains differently from what their owner may think."""
    images = folder.images()
    captions = {image: _caption_file(image, folder) for image in images}
    taken = [image for image, file in captions.items() if file and file.stem != image.stem]
    missing = [image for image, file in captions.items() if file is None]
    blank = [file for file in captions.values() if file and file.stat().st_size and not _first_line(file)]
    if taken:
        yield (
            f"{_names(taken)}: no caption of its own, so sd-scripts takes that of {captions[taken[0]]}: it drops the "
            f"last {_LOST_FIELDS} fields of a name with five or more, separated by _. Write {taken[0].stem}"
            f"{folder.caption_extension}, or rename the image"
        )
    if blank:
        yield f"{_names(blank)}: the first line is blank, and sd-scripts reads only that one"
    # Folders named after a class are meant to have no captions; one forgotten among many is not.
    if missing and (not folder.class_tokens or len(missing) < len(images)):
        instead = f"with {folder.class_tokens!r}" if folder.class_tokens else "with an empty prompt"
        other = _other_extension(missing, folder)
        yield (
            f"{folder.path}: {len(missing)} of {len(images)} images have no {folder.caption_extension} file and train "
            f"{instead}, such as {missing[0].name}"
            + (f'. There are {other} files: set caption_extension = "{other}"' if other else "")
        )


def _caption_file(image: Path, folder: Folder) -> Path | None:
    """As sd-scripts looks for it; it counts the fields of the whole path, folders included."""
    base = str(image.with_suffix(""))
    fields = base.split("_")
    bases = [base, "_".join(fields[:-_LOST_FIELDS])] if len(fields) > _LOST_FIELDS else [base]
    files = (Path(name + folder.caption_extension) for name in bases)
    return next((file for file in files if file.is_file()), None)


def _first_line(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip()


def _other_extension(images: Sequence[Path], folder: Folder) -> str | None:
    extensions = (".txt", ".caption")
    return next((e for e in extensions if e != folder.caption_extension and images[0].with_suffix(e).is_file()), None)


def _names(files: Sequence[Path]) -> str:
    return str(files[0]) + (f" and {len(files) - 1} more" if len(files) > 1 else "")
