"""dataset.toml and sga_manifest.jsonl of a partition."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import toml

from sga_kohya.errors import SgaError
from sga_kohya.kit.files import sha256, write_whole
from sga_kohya.kit.sealed import sealed, set_aside, set_edited_aside
from sga_kohya.partition.dataset import Dataset, Sample
from sga_kohya.words import MANIFEST_NAME

DATASET_TOML = "dataset.toml"
HEADER = "# Written by sga_kohya.partition and rewritten by its next run here: edit a copy."
MANIFEST_SEAL = f"# sha256 of {MANIFEST_NAME} beside it: "
GROUPINGS = ("image", "stem", "folder")


def check_folder(out: Path) -> None:
    """Raises SgaError where files of other origin would be overwritten."""
    if out.exists() and not out.is_dir():
        raise SgaError(f"OUT {out} is a file: give a folder")
    written = (out / DATASET_TOML).is_file() and HEADER in (out / DATASET_TOML).read_text(
        encoding="utf-8", errors="replace"
    )
    for name in (DATASET_TOML, MANIFEST_NAME):
        if (out / name).exists() and not written:
            raise SgaError(f"{out / name} was not written by sga_kohya.partition: choose another OUT or move it away")


def write(
    out: Path, dataset: Dataset, labels: Sequence[str | None], values: Sequence[object], by: str, group_by: str
) -> list[Path]:
    """labels: by sample, None for one that takes no part. values: what the label was chosen by.

    Returns where files of an earlier run lie now, that were edited by hand.
    """
    rows = [
        {
            "file": str(sample.path),
            "group": group_of(sample, group_by),
            "granularity": label,
            "criterion": by,
            "value": value,
        }
        for sample, label, value in zip(dataset.samples, labels, values, strict=True)
        if label is not None
    ]
    # backslashreplace: a file name that is not UTF-8 becomes JSON's own escape.
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(errors="backslashreplace")
    out.mkdir(parents=True, exist_ok=True)
    aside = [*_edited_manifest_aside(out), *filter(None, [set_edited_aside(out / DATASET_TOML)])]
    seal = f"{MANIFEST_SEAL}{hashlib.sha256(lines).hexdigest()}\n"
    write_whole(out / DATASET_TOML, sealed(HEADER, f"{seal}\n{toml.dumps(dataset.toml)}"))
    write_whole(out / MANIFEST_NAME, lines)
    return aside


def _edited_manifest_aside(out: Path) -> list[Path]:
    """Labels that were corrected by hand are work that a new run must not undo."""
    manifest, dataset = out / MANIFEST_NAME, out / DATASET_TOML
    if not manifest.is_file():
        return []
    known = dataset.read_text(encoding="utf-8", errors="replace") if dataset.is_file() else ""
    return [] if f"{MANIFEST_SEAL}{sha256(manifest)}\n" in known else [set_aside(manifest)]


def group_of(sample: Sample, group_by: str) -> str:
    """What shares a tuple step: nothing with anything ("image"), equal file stems, or the images of a folder."""
    if group_by == "folder":
        return str(sample.path.parent)
    return sample.path.stem if group_by == "stem" else str(sample.path)
