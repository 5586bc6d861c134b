"""Real photos that ship inside scikit-image (public domain or CC0, says skimage.data); nothing is downloaded."""

import importlib.util
import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.kit.files import write_whole
from sga_kohya.kit.toml_file import toml_string

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


def write_crops(folder: Path, each: int, side: int, batch_size: int, seed: int) -> Path:
    """Random crops of OTHERS, squares of `side` pixels. Returns the dataset.toml. Raises SgaError without any."""
    source = _data()
    lines = ["[[datasets]]", f"batch_size = {batch_size}"]
    for name in _present(source, OTHERS):
        target, words = folder / Path(name).stem, Path(name).stem.replace("_", " ")
        target.mkdir(parents=True, exist_ok=True)
        for number, crop in enumerate(_crops(source / name, each, side, random.Random(f"{seed}/{name}"))):
            crop.save(target / f"{number:04}.png")
        lines += ["[[datasets.subsets]]", f"image_dir = {toml_string(str(target))}", f"class_tokens = '{words}'"]
    write_whole(folder / "dataset.toml", "\n".join([*lines, ""]))
    return folder / "dataset.toml"


def _crops(path: Path, count: int, side: int, rng: random.Random) -> Iterator[Image.Image]:
    """Squares of a fifth to the whole of the shorter side."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
    for _ in range(count):
        size = round(min(picture.size) * rng.uniform(0.2, 1.0))
        left, top = rng.randint(0, picture.width - size), rng.randint(0, picture.height - size)
        yield picture.crop((left, top, left + size, top + size)).resize((side, side), Image.Resampling.BOX)


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
