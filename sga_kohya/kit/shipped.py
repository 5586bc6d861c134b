"""Files that come with the package: inside it in a wheel, beside it in a clone."""

from pathlib import Path

from sga_kohya.errors import SgaError

_PACKAGE = Path(__file__).parents[1]


def shipped(name: str) -> Path:
    """presets, patches or examples. Raises SgaError when the installation has lost them."""
    folders = (_PACKAGE / f"_{name}", _PACKAGE.parent / name)
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise SgaError(f"no {name} in {folders[0]}: install sga_kohya again")
    return folder
