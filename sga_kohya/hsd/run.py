"""A whole run, from a folder of photos to a folder that can be trained on."""

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
from tqdm import tqdm

from sga_kohya.errors import SgaError
from sga_kohya.hsd.captioners.captioner import Captioner
from sga_kohya.hsd.kits import Kit, make_kits
from sga_kohya.hsd.masks.sources import Masks, find_masks, without_masks
from sga_kohya.hsd.memory import Memory, usual_size
from sga_kohya.hsd.out.dataset import dataset_of
from sga_kohya.hsd.out.dataset_raw import FOLDERS as RAW_FOLDERS
from sga_kohya.hsd.out.dataset_raw import RawFolder, RawResult, write_raw
from sga_kohya.hsd.out.exports import texts
from sga_kohya.hsd.out.ledger import JOURNAL, STRIPS, read_rows
from sga_kohya.hsd.out.manifest import MANIFEST, Row, caption_file, mask_file, mask_folder
from sga_kohya.hsd.out.names import assign_roots
from sga_kohya.hsd.out.output import OutputFolder, Swept, remove_recorded
from sga_kohya.hsd.out.report import REPORT, write_report
from sga_kohya.hsd.out.tally import Tally
from sga_kohya.hsd.photos.finding import Found, find_images
from sga_kohya.hsd.photos.images import Header, load_plugins, read_header
from sga_kohya.hsd.pipeline import Pipeline, bounded_map
from sga_kohya.hsd.review.decisions import Decisions
from sga_kohya.hsd.review.sources import remember_photos
from sga_kohya.hsd.settings.config import HsdConfig
from sga_kohya.hsd.settings.config_file import CONFIG_TOML, to_toml
from sga_kohya.kit.files import LOCK, only_writer, write_whole
from sga_kohya.kit.sealed import set_edited_aside

PREVIEW = "preview"
MARKERS = (MANIFEST, JOURNAL, LOCK)
"""A sub-folder of PHOTOS with one of these holds results, or is being filled with them."""
HEADERS_AHEAD = 256

REMEDY = "give another OUT"


@dataclass(frozen=True)
class Result:
    """out: absolute. foreign: files of other origin in the level folders, FOLDER/FILE.

    edited: captions, slices and masks that were kept because the user has edited them. unmatched: overrides for folders
    without photos. found: what lies in PHOTOS. unopened: photos that could not be opened, whose slices of earlier runs
    stay. decisions: of the review. swept: what became of files that are made no more; None in a preview. raw: what
    became of the photos' copies; None where only some photos were taken. stray_masks: of no photo. memory: as it was
    used.
    """

    out: Path
    tally: Tally
    foreign: list[str]
    edited: list[str]
    unmatched: list[str]
    found: Found
    unopened: list[str]
    decisions: Decisions
    memory: Memory
    swept: Swept | None = None
    raw: RawResult | None = None
    stray_masks: Sequence[str] = ()

    @property
    def rows(self) -> list[Row]:
        """The manifest, by source."""
        return list(read_rows(self.out))


def run(
    photos: Path,
    out: Path,
    config: HsdConfig,
    workers: int = 4,
    progress: bool = False,
    only: int | None = None,
    decided_in: Path | None = None,
    memory: int | None = None,
) -> Result:
    """Decomposes every image below `photos` into `out`. Never writes into `photos`, except into an `out` inside it.

    An unreadable or too small photo becomes a row with its reason. A rerun over the same `out`, also after a kill,
    takes over what is finished, replaces what has changed and removes what is no longer produced. only: that many
    photos, spread evenly. decided_in: the folder whose decisions are obeyed, `out` by default. memory: bytes that the
    photos in flight may take; one that is larger goes alone. Raises SgaError for what the user can correct.
    """
    photos, out = photos.resolve(), out.resolve()
    check_folders(photos, out, config)
    load_plugins()
    found = find_images(photos, out, MARKERS)
    sources = _sources(photos, found, config)
    masks = find_masks(config.masks, photos, sources, MARKERS)
    kits = make_kits(config, photos)
    for told in captioning_costs(kits, config, sample(sources, only)):
        print(told, file=sys.stderr)
    with only_writer(out, REMEDY), ExitStack() as opened:
        folder, room = OutputFolder(out, _folders(config, masks)), Memory(usual_size() if memory is None else memory)
        copies = opened.enter_context(closing(RawFolder(out, config))) if only is None else None
        pipeline = Pipeline(photos, folder, config, kits, masks, Decisions(decided_in or out), room, copies)
        tally, edited = _stream(pipeline, sample(sources, only), found, workers, progress)
        swept = folder.finish(texts(dataset_of(config, out, tally), config.export), to_toml(config))
        raw = write_raw(photos, copies) if copies else None
        write_report(out, config, tally, None if only is None else len(sources))
        remember_photos(out, photos)
    unmatched = sorted(config.overrides.keys() - {config.override_of(source) for source in sources})
    foreign, seen = folder.foreign, (found, pipeline.unopened, pipeline.decisions, room)
    if raw:
        swept = Swept(swept.removed + raw.removed, swept.left + raw.left, swept.aside + raw.aside)
        foreign = [*foreign, *raw.foreign]
    return Result(out, tally, foreign, edited, unmatched, *seen, swept, raw, masks.strays)


def _folders(config: HsdConfig, masks: Masks) -> list[str]:
    """Names of the folders that slices and masks go to."""
    folders = [level.folder for level in config.levels]
    return [*folders, *(map(mask_folder, folders) if masks.beside else ())]


def _sources(photos: Path, found: Found, config: HsdConfig) -> list[str]:
    """The photos below PHOTOS, with '/'. Raises SgaError where there are none."""
    images = without_masks(config.masks, photos, found.images)
    if not images:
        raise SgaError(f"no images in {photos}: give a folder with .jpg, .png, .webp, … files in it or below it")
    return sorted(path.relative_to(photos).as_posix() for path in images)


def _stream(
    pipeline: Pipeline, sources: Sequence[str], found: Found, workers: int, progress: bool
) -> tuple[Tally, list[str]]:
    """All photos, large ones first; then what lies in folders that cannot be read now, as it is."""
    folder, config = pipeline.folder, pipeline.config
    below = [source for name in found.unreadable for source in folder.ledger.sources_below(name)]
    closed = [source for source in sources if not os.access(pipeline.photos / source, os.R_OK)]
    kept = {source: rows for source in (*below, *closed) if (rows := folder.made_before(source))}
    sources = [source for source in sources if source not in kept]
    # Names that stay are taken, even where the photos there are now would share them out otherwise.
    roots = assign_roots(sources, folder.taken | {row.root for rows in kept.values() for row in rows})
    tally = Tally(level.name for level in config.levels)
    edited: list[str] = []
    pool = ThreadPoolExecutor(workers, thread_name_prefix="hsd")
    try:
        headers = read_headers(pipeline.photos, sources, pool)
        if config.near_duplicates >= 0:
            # Of near-duplicates the one that a person has decided about comes first, so that it is the one that stays.
            decided = pipeline.decisions.sources
            bar = tqdm(headers, total=len(sources), unit="header", disable=not progress, delay=2, leave=False)
            headers = iter(sorted(bar, key=lambda read: (read[0] not in decided, -read[1].pixels, read[0])))
        order = ((source, header.memory) for source, header in headers)
        with one_thread_each(), tqdm(total=len(sources), unit="photo", disable=not progress, smoothing=0.05) as bar:
            for rows, new in pipeline.stream(order, roots, pool, ahead=workers):
                tally.add(rows, new)
                edited += edited_files(folder, rows)
                bar.update()
        for rows in kept.values():
            folder.done(rows, new=False)
            tally.add(rows, new=False)
        pipeline.unopened.extend(kept)
    except BaseException:
        # On Ctrl-C the files being written are finished, those that only wait are not begun.
        pool.shutdown(cancel_futures=True)
        folder.abandon()
        raise
    pool.shutdown()
    return tally, edited


def read_headers(photos: Path, sources: Sequence[str], pool: ThreadPoolExecutor) -> Iterator[tuple[str, Header]]:
    """Of each photo, in order, read ahead of who asks."""
    return bounded_map(pool, lambda source: (source, read_header(photos / source)), sources, limit=HEADERS_AHEAD)


def preview(
    photos: Path,
    out: Path,
    config: HsdConfig,
    count: int,
    workers: int = 4,
    progress: bool = False,
    memory: int | None = None,
) -> Result:
    """Decomposes `count` photos, spread evenly, and keeps only the report of it, in OUT/preview."""
    check_folders(photos.resolve(), out.resolve(), config)
    target = out.resolve() / PREVIEW
    if target.exists() and {path.name for path in target.iterdir()} - {LOCK} and not (target / MANIFEST).is_file():
        raise SgaError(f"{target} is no earlier preview: move it away or choose another OUT")
    with tempfile.TemporaryDirectory(prefix="sga_hsd_") as folder:
        result = run(photos, Path(folder) / "out", config, workers, progress, count, out, memory)
        with only_writer(target, REMEDY):
            aside = replace_preview(result.out, target)
    return replace(result, out=target, foreign=[], edited=[], swept=Swept(0, [], aside))


def replace_preview(made: Path, target: Path) -> list[Path]:
    """Put a report and its pictures in the place of an earlier preview's. Returns settings that were set aside.

    Only what that one's manifest has the hash of goes. The manifest also marks the folder, so that no later run takes
    the report's pictures for photos.
    """
    remove_recorded(target, f"{STRIPS}/")
    aside = set_edited_aside(target / CONFIG_TOML)
    for name in (MANIFEST, REPORT, CONFIG_TOML):
        write_whole(target / name, (made / name).read_bytes())
    if (made / STRIPS).is_dir():
        (target / STRIPS).mkdir(exist_ok=True)
        for picture in (made / STRIPS).iterdir():
            write_whole(target / STRIPS / picture.name, picture.read_bytes())
    return [aside] if aside else []


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Keeps OpenCV from starting threads inside ours, which would only wait for each other."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def sample(sources: Sequence[str], count: int | None) -> list[str]:
    """`count` of them, evenly spread from the first to the last; all where there are no more."""
    if count is None or count >= len(sources):
        return list(sources)
    return [sources[i * len(sources) // count] for i in range(count)]


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


def edited_files(folder: OutputFolder, rows: Sequence[Row]) -> Iterator[str]:
    """Slices (told by their length), masks and captions that the user has edited."""
    for row in rows:
        if row.file and folder.resized(row):
            yield row.file
        if row.file and folder.edited(caption_file(row.file), row.caption_sha256):
            yield caption_file(row.file)
        if row.file and row.mask_sha256 and folder.edited(mask_file(row.file), row.mask_sha256):
            yield mask_file(row.file)


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
    names = [*folders, *map(mask_folder, folders), *RAW_FOLDERS, STRIPS, PREVIEW]
    if out == photos or any(photos.is_relative_to(out / name) for name in names):
        raise SgaError(f"OUT {out} would write among the photos in {photos}: choose another OUT")
