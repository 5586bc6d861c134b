"""How a training image gets its granularity and its group.

Granularity, the first that is known: `custom_attributes.granularity` of its subset, the manifest, its folder's name
(`1_macro`), its file's suffix (`_micro`). Group: the manifest's, else the stem without that suffix.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sga_kohya.errors import SgaError
from sga_kohya.kit.hints import closest
from sga_kohya.words import ATTRIBUTE, DEFAULT_LABELS, MANIFEST_NAME

# Names that existing crop tools give the three levels.
_SUFFIX_ALIASES = {"full": "macro", "halfbody": "meso", "head": "micro"}


@dataclass(frozen=True)
class Identity:
    """What an image is within its photo. granularity and group are None for an image that takes no part in SGA."""

    granularity: str | None
    group: str | None


@dataclass(frozen=True)
class _Candidate:
    path: Path
    granularity: str
    stem: str
    manifest_group: str | None


class Manifest:
    """The kept slices of one sga_manifest.jsonl: absolute path -> (granularity, group). sha256: of the file."""

    def __init__(self, path: Path):
        """Raises SgaError naming the line that cannot be read."""
        self.path = path.resolve()  # one export is one name space, however its folders are written
        self.rows: dict[Path, tuple[str, str]] = {}
        content = path.read_bytes()
        self.sha256 = hashlib.sha256(content).hexdigest()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise SgaError(f"{self.path}: not UTF-8 ({error}); save it as UTF-8 in your editor") from None
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                self._add(line, number)

    def _add(self, line: str, number: int) -> None:
        try:
            row = json.loads(line)
            if row["file"] is not None:
                self._set(row["file"], *(_text(row, key) for key in (ATTRIBUTE, "group")))
        # RecursionError: brackets by the thousand
        except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
            reason = " ".join(repr(error).split())[:200]
            raise SgaError(
                f"{self.path}, line {number}: no manifest row ({reason}); make it again by `python -m sga_kohya.hsd`"
            ) from None

    def _set(self, file: str, granularity: str, group: str) -> None:
        """Under the name as it is written; under one with / as well, for a manifest that was made on Windows."""
        folder = self.path.parent
        self.rows[(folder / file).resolve()] = granularity, group
        if "\\" in file:
            self.rows.setdefault((folder / file.replace("\\", "/")).resolve(), (granularity, group))


def _text(row: Mapping[str, object], key: str) -> str:
    value = row[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is no text")
    return value


@dataclass
class Identifier:
    """Finds granularity and group of images. labels: coarse to fine, at least two."""

    labels: Sequence[str] = DEFAULT_LABELS
    manifest_path: Path | None = None
    _manifests: dict[Path, Manifest | None] = field(default_factory=dict)

    def identify(self, images: Iterable[tuple[Path, Mapping[str, object]]]) -> list[Identity]:
        """One Identity for each (image path, custom_attributes of its subset), in order."""
        found = [self._candidate(Path(path), attributes) for path, attributes in images]
        crowded = _stems_with_two_files_of_a_level(found)
        return [Identity(None, None) if c is None else Identity(c.granularity, _group(c, crowded)) for c in found]

    def metadata(self) -> dict[str, str]:
        """For a saved model's header: which slices it was trained on, as the digest of each manifest that was read."""
        digests = sorted({manifest.sha256 for manifest in self._manifests.values() if manifest})
        return {"ss_sga_manifest_sha256": ",".join(digests)} if digests else {}

    def bare_stem(self, path: Path) -> str:
        """A file's stem without the suffix that names a granularity."""
        return self._from_suffix(path.stem)[1]

    def _candidate(self, path: Path, attributes: Mapping[str, object]) -> _Candidate | None:
        manifest, row = self._manifest_row(path)
        suffix_label, stem = self._from_suffix(path.stem)
        label = (
            self._known(attributes.get(ATTRIBUTE))
            or (self._known(row[0]) if row else None)
            or self._from_folder(path.parent.name)
            or suffix_label
        )
        if label is None:
            return None
        # A suffix that names another level than the one we settled on is part of the name, not a label.
        return _Candidate(
            path,
            label,
            stem if suffix_label == label else path.stem,
            f"{manifest.path.parent}::{row[1]}" if manifest and row else None,
        )

    def _known(self, label: object) -> str | None:
        return label if isinstance(label, str) and label in self.labels else None

    def _from_folder(self, name: str) -> str | None:
        match = re.fullmatch(r"(?:\d+_)?(.+)", name)
        return self._known(match.group(1)) if match else None

    def _from_suffix(self, stem: str) -> tuple[str | None, str]:
        head, separator, tail = stem.rpartition("_")
        label = self._known(tail) or self._known(_SUFFIX_ALIASES.get(tail))
        return (label, head) if separator and head and label else (None, stem)

    def _manifest_row(self, path: Path) -> tuple[Manifest | None, tuple[str, str] | None]:
        manifest = self._manifest_for(path.parent)
        return manifest, manifest.rows.get(path.resolve()) if manifest else None

    def _manifest_for(self, folder: Path) -> Manifest | None:
        """The manifest that was named, else the one in the image's folder or the folder above it."""
        if self.manifest_path is not None:
            return self._load(self.manifest_path)
        if folder not in self._manifests:
            paths = (folder / MANIFEST_NAME, folder.parent / MANIFEST_NAME)
            self._manifests[folder] = next((self._load(path) for path in paths if path.is_file()), None)
        return self._manifests[folder]

    def _load(self, path: Path) -> Manifest:
        manifest = self._manifests.get(path)
        if manifest is None:
            manifest = self._manifests[path] = Manifest(path)
        return manifest


def _stems_with_two_files_of_a_level(candidates: Iterable[_Candidate | None]) -> set[str]:
    """Stems that one level holds twice (`cats/1_macro/01.png`, `dogs/1_macro/01.png`): only folders tell them apart."""
    files: dict[tuple[str, str], set[Path]] = defaultdict(set)
    for c in candidates:
        if c is not None:
            files[c.stem, c.granularity].add(c.path)
    return {stem for (stem, _), paths in files.items() if len(paths) > 1}


def _group(candidate: _Candidate, crowded: set[str]) -> str:
    if candidate.manifest_group is not None:
        return candidate.manifest_group
    if candidate.stem in crowded:
        return f"{candidate.path.parent.parent}::{candidate.stem}"
    return candidate.stem


def misspelled(attributes: Mapping[str, object], labels: Sequence[str]) -> str | None:
    """A warning when a subset's custom_attributes seem to mean a granularity but do not name one, else None."""
    if ATTRIBUTE in attributes:
        value = attributes[ATTRIBUTE]
        if value in labels:
            return None
        return f'granularity = "{value}" is none of {", ".join(labels)}{_did_you_mean(str(value), labels)}'
    for name in attributes:
        if closest(name, [ATTRIBUTE], cutoff=0.75):
            return f'unknown attribute "{name}"{_did_you_mean(name, [ATTRIBUTE])}'
    return None


def _did_you_mean(word: str, words: Sequence[str]) -> str:
    close = closest(word.lower(), words, cutoff=0.5)
    return f': did you mean "{close}"?' if close else ""
