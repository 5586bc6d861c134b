"""A whole run, from a folder of photos to a folder that can be trained on."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
from tqdm import tqdm

from sga_kohya.errors import SgaError
from sga_kohya.hsd.kits import make_sections
from sga_kohya.hsd.out.dataset_toml import dataset_toml
from sga_kohya.hsd.out.ledger import STRIPS, read_rows
from sga_kohya.hsd.out.manifest import MANIFEST, Row, caption_file
from sga_kohya.hsd.out.names import assign_roots
from sga_kohya.hsd.out.output import OutputFolder, write_atomically
from sga_kohya.hsd.out.report import REPORT, write_report
from sga_kohya.hsd.out.tally import Tally
from sga_kohya.hsd.photos.images import find_images, load_plugins
from sga_kohya.hsd.pipeline import Pipeline
from sga_kohya.hsd.settings.config import HsdConfig
from sga_kohya.hsd.settings.config_file import CONFIG_TOML, to_toml

PREVIEW = "preview"


@dataclass(frozen=True)
class Result:
    """out: absolute. foreign: files of other origin in the level folders, FOLDER/FILE.

    edited: captions that were kept because the user has edited them. unmatched: overrides for folders without photos.
    """

    out: Path
    tally: Tally
    foreign: list[str]
    edited: list[str]
    unmatched: list[str]

    @property
    def rows(self) -> list[Row]:
        """The manifest, by source."""
        return list(read_rows(self.out))


def run(
    photos: Path, out: Path, config: HsdConfig, workers: int = 4, progress: bool = False, only: int | None = None
) -> Result:
    """Decomposes every image below `photos` into `out`. Never writes into `photos`, except into an `out` inside it.

    An unreadable or too small photo becomes a row with its reason. A rerun over the same `out`, also after a kill,
    takes over what is finished, replaces what has changed and removes what is no longer produced. only: that many
    photos, spread evenly. Raises SgaError for what the user can correct.
    """
    photos, out = photos.resolve(), out.resolve()
    check_folders(photos, out, config)
    load_plugins()
    sources = [path.relative_to(photos).as_posix() for path in find_images(photos, out, MANIFEST)]
    if not sources:
        raise SgaError(f"no images in {photos}: give a folder with .jpg, .png, .webp, … files in it or below it")
    found = len(sources)
    sources = sample(sorted(sources), only)
    sections = make_sections(config, photos)
    folder = OutputFolder(out, [level.folder for level in config.levels])
    pipeline = Pipeline(photos, folder, config, sections)
    roots = assign_roots(sources, (Path(file).stem for file in folder.foreign))
    tally, edited = Tally(level.name for level in config.levels), []
    pool = ThreadPoolExecutor(workers, thread_name_prefix="hsd")
    try:
        with one_thread_each(), tqdm(total=len(sources), unit="photo", disable=not progress, smoothing=0.05) as bar:
            for rows, new in pipeline.stream(roots, pool, ahead=workers):
                tally.add(rows, new)
                edited += edited_captions(folder, rows)
                bar.update()
    except BaseException:
        # On Ctrl-C the files being written are finished, those that only wait are not begun.
        pool.shutdown(cancel_futures=True)
        folder.abandon()
        raise
    pool.shutdown()
    edited += folder.finish(dataset_toml(config, out, tally.present) if tally.present else None)
    write_atomically(out / CONFIG_TOML, to_toml(config).encode())
    write_report(out, config, tally, None if only is None else found)
    used = {config.section(source) for source in sources}
    return Result(out, tally, folder.foreign, edited, sorted(set(config.overrides) - used))


def preview(photos: Path, out: Path, config: HsdConfig, count: int, workers: int = 4, progress: bool = False) -> Result:
    """Decomposes `count` photos, spread evenly, and keeps only the report of it, in OUT/preview."""
    check_folders(photos.resolve(), out.resolve(), config)
    target = out.resolve() / PREVIEW
    if target.exists() and not (target / MANIFEST).is_file():
        raise SgaError(f"{target} is no earlier preview: move it away or choose another OUT")
    with tempfile.TemporaryDirectory(prefix="sga_hsd_") as folder:
        result = run(photos, Path(folder) / "out", config, workers, progress, only=count)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        # The manifest also marks the folder, so that no later run takes the report's pictures for photos.
        for name in (REPORT, MANIFEST, CONFIG_TOML):
            shutil.copy(result.out / name, target / name)
        if (result.out / STRIPS).is_dir():
            shutil.copytree(result.out / STRIPS, target / STRIPS)
    return Result(target, result.tally, [], [], result.unmatched)


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


def edited_captions(folder: OutputFolder, rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row.file and folder.edited(caption_file(row.file), row.caption_sha256):
            yield caption_file(row.file)


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
    names = [*(level.folder for level in config.levels), STRIPS, PREVIEW]
    if out == photos or any(photos.is_relative_to(out / name) for name in names):
        raise SgaError(f"OUT {out} would write among the photos in {photos}: choose another OUT")
