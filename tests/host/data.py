"""Small kohya datasets cut from real photos that ship inside scikit-image and ultralytics (no download)."""

import json
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

LEVELS = ("macro", "meso", "micro")
ZOOM = {"macro": 1.0, "meso": 0.6, "micro": 0.3}  # side of the region shown, relative to the photo
SQUARE = ((128, 128),)
MIXED = ((128, 128), (64, 128), (128, 64), (64, 64), (192, 64), (64, 192))  # each is a bucket of its own
PHOTOS = {
    "skimage": [
        "data/astronaut.png",
        "data/chelsea.png",
        "data/coffee.png",
        "data/rocket.jpg",
        "data/hubble_deep_field.jpg",
        "data/retina.jpg",
        "data/ihc.png",
        "data/motorcycle_left.png",
    ],
    "ultralytics": ["assets/bus.jpg", "assets/zidane.jpg"],
}


def write_dataset(
    folder: Path,
    groups: Sequence[Collection[str]],
    batch_size: int = 2,
    sizes: Sequence[tuple[int, int]] = MIXED,
    attributes: bool = True,
) -> Path:
    """Write `1_macro/ 1_meso/ 1_micro/` and dataset.toml, and return the latter.

    groups: the levels each group has. sizes: (width, height), taken in turn. Siblings share a stem; the caption is
    `stem level`, so that a recorded batch can be read back. attributes: granularity also as a custom attribute.
    """
    levels = [level for level in LEVELS if any(level in group for group in groups)]
    for number, group in enumerate(groups):
        for level in group:
            size = sizes[(number + LEVELS.index(level)) % len(sizes)]
            _write_slice(folder / f"1_{level}", number, level, size)
    subsets = [(folder / f"1_{level}", {"granularity": level} if attributes else {}) for level in levels]
    return _write_toml(folder / "dataset.toml", subsets, batch_size)


def write_plain_dataset(
    folder: Path, count: int = 6, batch_size: int = 2, sizes: Sequence[tuple[int, int]] = MIXED
) -> Path:
    """A dataset as people have it: one folder `1_photos`, nothing about granularity."""
    for number in range(count):
        _write_slice(folder / "1_photos", number, "macro", sizes[number % len(sizes)])
    return _write_toml(folder / "dataset.toml", [(folder / "1_photos", {})], batch_size)


def with_masks(dataset: Path) -> Path:
    """The same dataset with a mask for each image: grey on the left, darker on the right, each of its own grey."""
    text = dataset.read_text()
    for number, image in enumerate(sorted(dataset.parent.glob("1_*/*.png"))):
        folder = dataset.parent / f"masks_{image.parent.name}"
        folder.mkdir(exist_ok=True)
        width, height = Image.open(image).size
        mask = np.full((height, width), 255 - 10 * number, np.uint8)
        mask[:, width // 2 :] = 20 + number
        Image.fromarray(mask).save(folder / image.name)
    for folder in dataset.parent.glob("1_*"):
        masks = json.dumps(str(folder.with_name(f"masks_{folder.name}")))
        line = f"image_dir = {json.dumps(str(folder))}"
        assert line in text
        text = text.replace(line, f"{line}\nconditioning_data_dir = {masks}")
    dataset.write_text(text)
    return dataset


@cache
def photos() -> list[Path]:
    """Found without importing ultralytics, which writes settings on import."""
    return [
        Path(root, name)
        for package, names in PHOTOS.items()
        if (spec := find_spec(package)) is not None
        for root in spec.submodule_search_locations
        for name in names
    ]


def _write_slice(folder: Path, number: int, level: str, size: tuple[int, int]) -> None:
    source = photos()[number % len(photos())]
    stem = f"{number:02d}_{source.stem.split('_')[0]}"
    image = Image.open(source).convert("RGB")
    width, height = (round(side * ZOOM[level]) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    folder.mkdir(parents=True, exist_ok=True)
    ImageOps.fit(image.crop((left, top, left + width, top + height)), size).save(folder / f"{stem}.png")
    (folder / f"{stem}.txt").write_text(f"{stem} {level}")


def _write_toml(path: Path, subsets: Iterable[tuple[Path, dict[str, str]]], batch_size: int) -> Path:
    lines = [
        "[[datasets]]",
        "resolution = [128, 128]",
        f"batch_size = {batch_size}",
        "enable_bucket = true",
        "bucket_no_upscale = true",
        "bucket_reso_steps = 64",
        "min_bucket_reso = 64",
        "max_bucket_reso = 256",
    ]
    for image_dir, attributes in subsets:
        lines += ["", "[[datasets.subsets]]", f"image_dir = {json.dumps(str(image_dir))}"]
        lines += ["num_repeats = 1", 'caption_extension = ".txt"']
        if attributes:  # a table of its own: toml 0.10.2 makes an inline one unpicklable for data loader workers
            lines += ["", "[datasets.subsets.custom_attributes]"]
            lines += [f"{key} = {json.dumps(value)}" for key, value in attributes.items()]
    path.write_text("\n".join([*lines, ""]))
    return path
