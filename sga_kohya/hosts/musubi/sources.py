"""What a dataset's caches were made of, as far as it is still there: training itself sees the caches alone."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sga_kohya.granularity import misspelled
from sga_kohya.kit.pictures import is_picture

Source = tuple[Path, Mapping[str, Any]]
"""A file, and its row where a JSONL file names it."""
_IN_ROWS = ("image_path", "image_path_0", "video_path")


def sources_of(dataset: Any, items: Mapping[str, Any]) -> Iterator[tuple[str, Source]]:
    """(key, what it was made of) of each item; a file that is gone is thought of in the dataset's folder.

    All excerpts of a clip are named after it, so that they have its granularity and its group.
    """
    rows = dict(_sources(dataset))
    folder = Path(folder_of(dataset) or ".")
    for key, item in items.items():
        yield key, rows.get(item.item_key) or (folder / item.item_key, {})


def is_video(dataset: Any) -> bool:
    return hasattr(dataset, "video_directory")


def folder_of(dataset: Any) -> str | None:
    """Of its images or videos; None where a JSONL file names them."""
    return getattr(dataset, "image_directory", None) or getattr(dataset, "video_directory", None)


def excerpts(datasets: Iterable[tuple[Any, Sequence[Any]]]) -> Iterator[str]:
    """A note on clips of which several pieces train. datasets: each with its items."""
    pieces = Counter((id(dataset), item.item_key) for dataset, items in datasets if is_video(dataset) for item in items)
    several = [count for count in pieces.values() if count > 1]
    if several:
        yield (
            f"  excerpts  {sum(several)} of {len(several)} clips: those of one clip train in its step, as slices of "
            "one granularity"
        )


def out_of_step(dataset: Any, items: Sequence[Any], labels: Sequence[str]) -> Iterator[str]:
    """Where caches and files differ, and what a file means otherwise than it says: the host says nothing of it."""
    folder = folder_of(dataset)
    rows = dict(_sources(dataset))
    cached = {item.item_key for item in items}
    where = folder or "the JSONL file"
    yield from _missing(dataset, sorted(rows.keys() - cached), where)
    gone = sorted(cached - rows.keys())
    if gone:
        yield (
            f"{len(gone)} caches in {dataset.cache_directory} train, such as of {gone[0]}, whose file is not in "
            f"{where} or has no caption: run the cache script for latents, without --keep_cache"
        )
    if not is_video(dataset) and folder:
        pictures = {path.stem for path in Path(folder).iterdir() if is_picture(path)}
        silent = sorted(pictures - rows.keys() - cached)
        if silent:
            yield f"{len(silent)} images of {folder} have no caption file and do not train, such as {silent[0]}"
    if is_video(dataset) and dataset.frame_extraction != "full" and dataset.target_frames == (1,):
        yield f"of each clip of {where} one frame trains: set target_frames, such as [41]"
    strange = [text for _, row in rows.values() if (text := misspelled(row, labels))]
    if strange:
        yield f"{len(strange)} rows of a JSONL file say no granularity that is known, such as: {strange[0]}"


def _missing(dataset: Any, stems: Sequence[str], where: str) -> Iterator[str]:
    if stems:
        short = "" if not is_video(dataset) else f"; no cache is made of a clip below {_shortest(dataset)}"
        yield (
            f"{len(stems)} files of {where} have no caches and do not train, such as {stems[0]}: run the cache "
            f"scripts for latents and for text{short}"
        )


def _shortest(dataset: Any) -> str:
    """How many frames a clip must have."""
    frames = 1 if dataset.frame_extraction == "full" else min(dataset.target_frames)
    return f"{frames} frames" + (f" at {dataset.target_fps:g} a second" if dataset.source_fps else "")


def _sources(dataset: Any) -> Iterator[tuple[str, Source]]:
    """(stem, source) of each."""
    source = dataset.datasource
    for row in getattr(source, "data", None) or []:
        named = next((row[key] for key in _IN_ROWS if row.get(key)), None)
        if named is not None:
            yield Path(named).stem, (Path(named), row)
    for name in ("image_paths", "video_paths"):
        for file in getattr(source, name, None) or []:
            yield Path(file).stem, (Path(file), {})
