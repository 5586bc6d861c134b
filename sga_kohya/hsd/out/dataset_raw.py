"""dataset_raw.toml: the photos themselves, which is what the paper's baseline trains on, with buckets and flips.

Of each photo that gave slices a copy lies in OUT/photos_raw as a trainer sees it: upright, in sRGB, no larger than the
resolution's area, with the caption of its coarsest slice. So a trainer's caches stay away from the photos, and those of
formats and orientations that no trainer reads are in the comparison as well. It has its photo's mask where slices have.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from sga_kohya.errors import SgaError
from sga_kohya.hsd.cut.sizes import BUCKET_STEPS
from sga_kohya.hsd.masks.sources import ALPHA, NONE, are_beside
from sga_kohya.hsd.out.exports.export import HEADER, quoted
from sga_kohya.hsd.out.exports.musubi import CACHE, NO_MASKS
from sga_kohya.hsd.out.exports.sd_scripts import mask_lines
from sga_kohya.hsd.out.files import caption_file, mask_folder
from sga_kohya.hsd.out.lines import read_rows
from sga_kohya.hsd.out.manifest import Row
from sga_kohya.hsd.out.raw_folder import RAW, RawFolder, RawPhoto, copy_of
from sga_kohya.hsd.photos.captions import NOTHING_KNOWN, find_caption
from sga_kohya.hsd.settings.config import HsdConfig
from sga_kohya.kit.files import write_whole
from sga_kohya.kit.sealed import sealed, set_edited_aside
from sga_kohya.kit.text import read_text
from sga_kohya.words import RAW_MUSUBI_TOML, RAW_TOML


@dataclass(frozen=True)
class RawResult:
    """count: photos that can be trained on. missing: that can no longer be read. foreign: pictures made by others.

    removed, left, aside: as in Swept.
    """

    count: int
    missing: list[str]
    foreign: list[str]
    removed: int
    left: list[str]
    aside: list[Path]


def write_raw(photos: Path, folder: "RawFolder") -> RawResult:
    """Bring captions and the two TOMLs up to the manifest in OUT, whose photos' copies are there. photos: absolute.

    What is as it should be stays untouched, with the trainers' caches of it; what no photo stands for any more goes,
    unless someone has edited it.
    """
    out, config = folder.out, folder.config
    wanted = list(_wanted(photos, out, config))
    kept = [photo for photo in wanted if folder.holds_image(photo.file, photo.made_from)]
    for photo in kept:
        if not folder.holds_caption(photo):
            folder.write({caption_file(photo.file): photo.caption.encode()})
    missing = sorted({photo.source for photo in wanted} - {photo.source for photo in kept})
    removed, left = folder.sweep(kept)
    texts = {RAW_TOML: _dataset, RAW_MUSUBI_TOML: _musubi}
    aside = [_write(out / name, text(config, out) if kept else None) for name, text in texts.items()]
    return RawResult(len(kept), missing, folder.foreign(), removed, left, [place for place in aside if place])


def _wanted(photos: Path, out: Path, config: HsdConfig) -> Iterator[RawPhoto]:
    for source, members in groupby(read_rows(out), key=lambda row: row.source):
        rows = [row for row in members if row.file and not row.moving]
        if rows:
            yield RawPhoto(source, *copy_of(rows[0], config), f"{_caption(photos, out, config, rows)}\n")


def _caption(photos: Path, out: Path, config: HsdConfig, rows: list[Row]) -> str:
    """Those that its coarsest slice trains on; of a photo with several regions, those that somebody wrote for it."""
    source, first = rows[0].source, next((row for row in rows if row.granularity == config.coarsest.name), rows[0])
    # What cannot be read now, such as on a drive that is away, is no reason to stop here.
    with suppress(OSError, SgaError):
        if len({row.group for row in rows}) > 1:
            found = find_caption(photos / source, photos, config.of(config.override_of(source)).caption)
            if not found.guessed:
                return found.text
    with suppress(OSError, SgaError):
        return read_text(out / caption_file(str(first.file))).strip() or NOTHING_KNOWN
    return NOTHING_KNOWN


def _write(path: Path, text: str | None) -> Path | None:
    """Returns where the one before now lies, if someone has edited it."""
    aside = set_edited_aside(path)
    if text is None:
        path.unlink(missing_ok=True)
    else:
        write_whole(path, text)
    return aside


def _dataset(config: HsdConfig, out: Path) -> str:
    return sealed(
        HEADER,
        f"""
# The photos that the slices of dataset.toml come from, for the arm called raw: the paper's baseline.
[[datasets]]
resolution = {config.resolution}
batch_size = {config.batch_size}
enable_bucket = true
# No photo has a larger area: none is resized again.
bucket_no_upscale = true
bucket_reso_steps = {BUCKET_STEPS}
min_bucket_reso = {BUCKET_STEPS}
max_bucket_reso = {2 * config.resolution}

[[datasets.subsets]]
image_dir = {quoted(out / RAW)}
num_repeats = 1
caption_extension = ".txt"
flip_aug = true
{mask_lines(config.masks == ALPHA, out / mask_folder(RAW) if are_beside(config.masks) else None)}""",
    )


def _musubi(config: HsdConfig, out: Path) -> str:
    return sealed(
        HEADER,
        f"""
# The photos that the slices of dataset_musubi.toml come from. musubi-tuner has no flips.
{NO_MASKS if config.masks != NONE else ""}[general]
resolution = [{config.resolution}, {config.resolution}]
enable_bucket = true
bucket_no_upscale = true
batch_size = {config.batch_size}
caption_extension = ".txt"

[[datasets]]
image_directory = {quoted(out / RAW)}
cache_directory = {quoted(out / CACHE / RAW)}
num_repeats = 1
""",
    )
