"""What trainers read of a finished folder: one export a file here, and an entry in EXPORTS."""

from collections.abc import Collection, Iterable
from pathlib import Path

from sga_kohya.hsd.out.exports.ai_toolkit import AI_TOOLKIT
from sga_kohya.hsd.out.exports.diffusion_pipe import DIFFUSION_PIPE
from sga_kohya.hsd.out.exports.export import Dataset, Export
from sga_kohya.hsd.out.exports.musubi import MUSUBI
from sga_kohya.hsd.out.exports.onetrainer import ONETRAINER
from sga_kohya.hsd.out.exports.sd_scripts import SD_SCRIPTS
from sga_kohya.hsd.out.exports.simpletuner import SIMPLETUNER
from sga_kohya.hsd.out.exports.stock import STOCK

_ALL = (SD_SCRIPTS, MUSUBI, STOCK, SIMPLETUNER, AI_TOOLKIT, ONETRAINER, DIFFUSION_PIPE)
EXPORTS = {export.name: export for export in _ALL}


def wanted(asked: Collection[str]) -> list[Export]:
    """Those asked for, by name, and those that are always written."""
    return [export for export in _ALL if export.always or export.name in asked]


def texts(dataset: Dataset, asked: Collection[str]) -> dict[str, str | None]:
    """Each export's file, None for one that shall not be there: nothing to train on, or not asked for any more."""
    written = [export for export in wanted(asked) if dataset.present or (dataset.clips and export.use_clips)]
    return {export.file: export.write(dataset) if export in written else None for export in _ALL}


def caches_by_stem(out: Path) -> dict[str, list[Path]]:
    """FOLDER/STEM of a slice to all trainers' caches of it in OUT; those of sd-scripts lie beside the slices."""
    found: dict[str, list[Path]] = {}
    for export in _ALL:
        for stem, files in (export.caches(out) if export.caches else {}).items():
            found.setdefault(stem, []).extend(files)
    return found


def remove_empty_caches(out: Path, folders: Iterable[str]) -> None:
    """Folders of caches in which nothing is left. folders: names of the levels' own."""
    names = list(folders)
    for cache in (out / export.cache_folder for export in _ALL if export.cache_folder):
        for folder in (*(cache / name for name in names), cache):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
