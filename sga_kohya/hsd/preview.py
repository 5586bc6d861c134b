"""A run of a few photos, of which only the report stays."""

import tempfile
from dataclasses import replace
from pathlib import Path

from sga_kohya.errors import SgaError
from sga_kohya.hsd.job import PREVIEW, check_folders
from sga_kohya.hsd.out.files import STRIPS
from sga_kohya.hsd.out.manifest import MANIFEST
from sga_kohya.hsd.out.output import Swept, remove_recorded
from sga_kohya.hsd.out.report import REPORT
from sga_kohya.hsd.run import REMEDY, Result, run
from sga_kohya.hsd.settings.config import HsdConfig
from sga_kohya.hsd.settings.config_file import CONFIG_TOML
from sga_kohya.kit.files import LOCK, only_writer, write_whole
from sga_kohya.kit.sealed import set_edited_aside


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
