"""What a run is to do, found and checked before anything is written."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sga_kohya.errors import SgaError
from sga_kohya.hsd.captioners.captioner import Captioner
from sga_kohya.hsd.clips.cutting import check_libraries
from sga_kohya.hsd.clips.found import clip_folders, take_clips
from sga_kohya.hsd.clips.levels import of_clips
from sga_kohya.hsd.kits import Kit, make_kits
from sga_kohya.hsd.masks.sources import Masks, find_masks, without_masks
from sga_kohya.hsd.memory import Memory, usual_size
from sga_kohya.hsd.out.files import STRIPS, mask_folder
from sga_kohya.hsd.out.ledger import JOURNAL
from sga_kohya.hsd.out.manifest import MANIFEST
from sga_kohya.hsd.out.output import OutputFolder
from sga_kohya.hsd.out.raw_folder import FOLDERS as RAW_FOLDERS
from sga_kohya.hsd.out.raw_folder import RawFolder
from sga_kohya.hsd.out.report import PAGES
from sga_kohya.hsd.photos.finding import Found, find_images, sample
from sga_kohya.hsd.photos.images import load_plugins
from sga_kohya.hsd.pipeline import Pipeline
from sga_kohya.hsd.review.decisions import Decisions
from sga_kohya.hsd.settings.config import HsdConfig
from sga_kohya.hsd.team import journal_of
from sga_kohya.kit.files import LOCK

PREVIEW = "preview"
"""Folder of OUT, see preview.py."""
MARKERS = (MANIFEST, JOURNAL, LOCK)
"""A sub-folder of PHOTOS with one of these holds results, or is being filled with them."""


@dataclass(frozen=True)
class Job:
    """What a run is to do, found and checked before it writes. sources: all photos, and all clips; only: how many of
    each it takes."""

    photos: Path
    out: Path
    config: HsdConfig
    workers: int
    progress: bool
    only: int | None
    found: Found
    sources: Sequence[str]
    clips: Sequence[str]
    masks: Masks
    kits: dict[str, Kit]
    decisions: Decisions
    room: Memory

    def pipeline(self, rank: int | None = None, run: str = "") -> Pipeline:
        """On OUT as it is now. rank: of one of several processes that is to do its share. run: as of Ledger."""
        folder = OutputFolder(self.out, slice_folders(self.config, self.masks, self.out), journal_of(rank), run)
        folder.remove_parts()
        raw = RawFolder(self.out, self.config, rank) if self.only is None else None
        parts = self.config, self.kits, self.masks, self.decisions, self.room
        return Pipeline(self.photos, folder, *parts, raw, alone=rank is None)


def prepare(
    photos: Path,
    out: Path,
    config: HsdConfig,
    workers: int,
    progress: bool,
    only: int | None = None,
    decided_in: Path | None = None,
    memory: int | None = None,
) -> Job:
    """Arguments and errors as of `run`."""
    photos, out = photos.resolve(), out.resolve()
    check_folders(photos, out, config)
    load_plugins()
    found = find_images(photos, out, MARKERS)
    clips = take_clips(found, photos, config)
    if clips:
        check_libraries(config, clips)
    sources = _sources(photos, found, config, clips)
    masks = find_masks(config.masks, photos, sources, MARKERS)
    kits = make_kits(config, photos)
    for told in captioning_costs(kits, config, sample(sources, only)):
        print(told, file=sys.stderr)
    room = Memory(usual_size() if memory is None else memory)
    decisions = Decisions(decided_in or out)
    return Job(photos, out, config, workers, progress, only, found, sources, clips, masks, kits, decisions, room)


def slice_folders(config: HsdConfig, masks: Masks, out: Path) -> list[str]:
    """Names of the folders that slices and masks go to, as far as they are known."""
    folders = [level.folder for level in config.levels]
    labels = [level.name for level in of_clips(config).levels]
    return [*folders, *(map(mask_folder, folders) if masks.beside else ()), *clip_folders(out, labels)]


def _sources(photos: Path, found: Found, config: HsdConfig, clips: Sequence[str]) -> list[str]:
    """The photos below PHOTOS, with '/'. Raises SgaError where there is nothing."""
    images = without_masks(config.masks, photos, found.images)
    found.images.clear()  # a million paths are a third of a gigabyte
    if not images and not clips:
        raise SgaError(f"no images in {photos}: give a folder with .jpg, .png, .webp, … files in it or below it")
    return sorted(path.relative_to(photos).as_posix() for path in images)


def captioning_costs(kits: Mapping[str, Kit], config: HsdConfig, sources: Sequence[str]) -> Iterator[str]:
    """What captioners say of so many slices as these photos can give, before the first is cut."""
    photos = Counter(config.override_of(source) for source in sources)
    slices: Counter[Captioner] = Counter()
    for name, kit in kits.items():
        finer = sum(level.max_slices for level in kit.config.finer)
        slices[kit.captioning.captioner] += photos[name] * kit.config.coarsest.max_slices * (1 + finer)
    for captioner, count in slices.items():
        if count and hasattr(captioner, "cost"):
            yield captioner.cost(count)


def check_folders(photos: Path, out: Path, config: HsdConfig) -> None:
    """Raises SgaError where reading or writing could not work, or would write among the photos."""
    if not photos.is_dir():
        raise SgaError(f"no folder {photos}: give the folder with your photos")
    if out.exists() and not out.is_dir():
        raise SgaError(f"OUT {out} is a file: give a folder")
    try:
        str(out).encode()
    except UnicodeEncodeError:
        raise SgaError(f"OUT {str(out)!a}: the name is not UTF-8, which dataset.toml has to be: rename it") from None
    folders = [level.folder for level in config.levels]
    names = [*folders, *map(mask_folder, folders), *RAW_FOLDERS, STRIPS, PAGES, PREVIEW]
    if out == photos or any(photos.is_relative_to(out / name) for name in names):
        raise SgaError(f"OUT {out} would write among the photos in {photos}: choose another OUT")
