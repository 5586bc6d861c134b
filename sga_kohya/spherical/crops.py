"""A small class-conditional set of real images: crops of photos, as a kohya dataset, and others to measure against."""

import importlib.util
import json
import random
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sga_kohya.errors import SgaError
from sga_kohya.kit.files import write_whole
from sga_kohya.spherical.images import find_images, load_square

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "retina.jpg", "hubble_deep_field.jpg", "ihc.png")
SIDE = 32
PHOTO_SIDE = 96  # the shorter side before cropping: crops then show parts of things, not single textures


def class_folders(images: Path | None, work: Path) -> dict[str, list[Path]]:
    """Class -> its images: the folders of `images`, or each photo of scikit-image as a class of its own."""
    if images is not None:
        folders = sorted(p for p in images.iterdir() if p.is_dir()) if images.is_dir() else []
        if len(folders) < 2:
            raise SgaError(f"--images {images}: give a folder with two or more folders of images, one a class")
        return {folder.name: find_images(folder) for folder in folders}
    spec = importlib.util.find_spec("skimage")  # found without importing it, which takes seconds
    if spec is None or not spec.submodule_search_locations:
        raise SgaError('the ablation takes its photos from scikit-image: run pip install "sga-kohya[spherical]"')
    data = Path(spec.submodule_search_locations[0]) / "data"
    found = {Path(name).stem: [data / name] for name in PHOTOS if (data / name).is_file()}
    if len(found) < 2:
        raise SgaError(f"{data} holds none of the photos: run pip install --force-reinstall scikit-image")
    return found


def write_crops(classes: dict[str, list[Path]], folder: Path, per_class: int, batch_size: int) -> Path:
    """Write FOLDER/1_CLASS/*.png and dataset.toml, whose class_tokens are the classes. Returns the latter."""
    file = folder / "dataset.toml"
    if file.is_file():
        return file
    lines = ["[[datasets]]", f"batch_size = {batch_size}"]
    for name, images in tqdm(classes.items(), desc="crops", unit="class"):
        target = folder / f"1_{name}"
        target.mkdir(parents=True, exist_ok=True)
        pixels = ((draw_crops({name: images}, per_class, seed=0) + 1) * 127.5).round().to(torch.uint8)
        for number, crop in enumerate(pixels):
            Image.fromarray(crop.permute(1, 2, 0).numpy()).save(target / f"{number:05d}.png")
        lines += [
            "[[datasets.subsets]]",
            f"image_dir = {json.dumps(str(target))}",
            f"class_tokens = {json.dumps(name)}",
        ]
    write_whole(file, "\n".join([*lines, ""]))
    return file


def draw_crops(classes: dict[str, list[Path]], per_class: int, seed: int) -> Tensor:
    """(classes * per_class, 3, SIDE, SIDE), in [-1, 1], cut and flipped at random; class after class."""
    crops = []
    for name, images in classes.items():
        rng = random.Random(f"{seed}/{name}")
        photos = {path: load_square(path, PHOTO_SIDE) for path in images[:500]}
        for _ in range(per_class):
            photo = photos[rng.choice(list(photos))]
            top, left = (rng.randint(0, PHOTO_SIDE - SIDE) for _ in range(2))
            crop = photo[:, top : top + SIDE, left : left + SIDE]
            crops.append(crop.flip(2) if rng.random() < 0.5 else crop)
    return torch.stack(crops)
