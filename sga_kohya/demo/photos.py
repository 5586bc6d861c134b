"""Real photos that ship inside scikit-image (public domain or CC0, says skimage.data); nothing is downloaded."""

import importlib.util
import shutil
from collections.abc import Iterable
from pathlib import Path

from sga_kohya.errors import SgaError

CAPTIONS = {
    "astronaut.png": "portrait of an astronaut in an orange suit",
    "chelsea.png": "a tabby cat looking sideways",
    "coffee.png": "a cup of espresso on a red saucer",
    "rocket.jpg": "a rocket on its launch pad at dusk",
    "retina.jpg": "the retina of a human eye",
    "hubble_deep_field.jpg": "the hubble deep field with many galaxies",
}


OTHERS = (
    "brick.png",
    "camera.png",
    "cell.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
)
"""What the toy is pretrained on: never the photos that it is fine-tuned on."""


def copy_photos(folder: Path, count: int) -> list[Path]:
    """Copy the first `count` photos that this scikit-image carries, with captions. Raises SgaError without any."""
    source = _data()
    folder.mkdir(parents=True, exist_ok=True)
    names = _present(source, CAPTIONS)[:count]
    for name in names:
        shutil.copy(source / name, folder)
        (folder / name).with_suffix(".txt").write_text(CAPTIONS[name], encoding="utf-8")
    return [folder / name for name in names]


def other_pictures() -> dict[str, list[Path]]:
    """OTHERS by name, each a class of its own. Raises SgaError without any."""
    source = _data()
    return {Path(name).stem: [source / name] for name in _present(source, OTHERS)}


def _data() -> Path:
    spec = importlib.util.find_spec("skimage")  # found without importing it, which takes seconds
    if spec is None or not spec.submodule_search_locations:
        raise SgaError('the demo takes its photos from scikit-image: run pip install "sga-kohya[demo]"')
    return Path(spec.submodule_search_locations[0]) / "data"


def _present(source: Path, names: Iterable[str]) -> list[str]:
    found = [name for name in names if (source / name).is_file()]
    if not found:
        raise SgaError(f"{source} holds none of the demo's photos: run pip install --force-reinstall scikit-image")
    return found
