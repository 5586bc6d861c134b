"""Find the sd-scripts checkout and see whether it is one we can work with, by looking at its files only."""

import os
from dataclasses import dataclass
from pathlib import Path

from sga_kohya.errors import SgaError

TESTED = "v0.10.0 to v0.11.1 and upstream dev of 2026-07-23"
DEFAULT_FOLDER = Path("~/.cache/sga_kohya/sd-scripts")
HOW_TO_GET = (
    "git clone --branch v0.11.1 https://github.com/kohya-ss/sd-scripts, "
    "then pass --sd_scripts FOLDER or set SD_SCRIPTS_DIR=FOLDER"
)


@dataclass(frozen=True)
class Checkout:
    """A folder that holds sd-scripts."""

    root: Path

    def script(self, name: str) -> Path:
        """The path of one of its training scripts. Raises SgaError when this version has none of that name."""
        path = self.root / name
        if not path.is_file():
            raise SgaError(f"{self.root} has no {name}; tested versions of sd-scripts are {TESTED}")
        return path


def find_checkout(named: str | None = None) -> Checkout:
    """The checkout that was named, else SD_SCRIPTS_DIR, else the current folder, else ~/.cache/sga_kohya/sd-scripts.

    Raises SgaError when the first of these that is set is no checkout, when there is none, or when it is too old.
    """
    for origin, folder in (("--sd_scripts", named), ("SD_SCRIPTS_DIR", os.environ.get("SD_SCRIPTS_DIR"))):
        if folder:
            root = Path(folder).expanduser()
            if not _is_checkout(root):
                raise SgaError(f"{origin} {folder}: this is no sd-scripts checkout; get one with: {HOW_TO_GET}")
            return _supported(root)
    for root in (Path.cwd(), DEFAULT_FOLDER.expanduser()):
        if _is_checkout(root):
            return _supported(root)
    raise SgaError(f"sd-scripts was not found (nor in {Path.cwd()} and {DEFAULT_FOLDER}); get it with: {HOW_TO_GET}")


def _is_checkout(root: Path) -> bool:
    return (root / "train_network.py").is_file() and (root / "library" / "train_util.py").is_file()


def _supported(root: Path) -> Checkout:
    # v0.9.1 and older know no FLUX, and their training loop cannot be reached by seams.
    if not (root / "library" / "flux_train_utils.py").is_file():
        raise SgaError(
            f"{root} is sd-scripts v0.9.1 or older, which has no seams for SGA; tested are {TESTED}: "
            f"run `git checkout v0.11.1` there, or {HOW_TO_GET}"
        )
    return Checkout(root.resolve())
