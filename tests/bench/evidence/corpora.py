"""Stage 1: pictures from Debian packages, cut by H-SD, as small tensors. Nothing is committed, nothing installed.

The broad corpus, on which the models are pretrained, is the desktop wallpapers of three packages. The domains, on
which they are fine-tuned, are drawings (openclipart) and photographs cut out on white (Tux Paint's stamps).
"""

import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sga_kohya.errors import SgaError
from sga_kohya.hsd import HsdConfig, LevelConfig
from sga_kohya.hsd import run as decompose
from sga_kohya.kit.files import whole_file, whole_folder
from sga_kohya.tuples.step import Slice

LEVELS = ("macro", "meso", "micro")
SCALE_WORDS = {"macro": "whole", "meso": "part", "micro": "detail"}
SIDE = 24
"""Pixels of what the models see; H-SD cuts SLICE_SIDE, which is averaged down."""
SLICE_SIDE = 64
PHOTO_SIDE = 512
CROPS = {"train": 6000, "held": 360}
HELD_WALLPAPERS = 17

BROAD = ("plasma-workspace-wallpapers", "gnome-backgrounds", "mate-backgrounds")
DOMAINS: dict[str, tuple[str, Callable[[Path], bool]]] = {
    "drawings": ("openclipart-png", lambda path: bool({"animals", "food", "transportation"} & set(path.parts))),
    "stamps": (
        "tuxpaint-stamps-default",
        lambda path: bool({"animals", "food", "plants"} & set(path.parts)) and "cartoon" not in path.parts,
    ),
}
PHOTOS = 150
"""Of a domain, at most; a seed draws its training and held-out photos from them."""


@dataclass(frozen=True)
class Domain:
    """Slices of photos. images: by key, (3, SIDE, SIDE) in [-1, 1]; a photo's own key is its name.

    photos: names. slices: (Slice, its group, its photo). captions: by photo.
    """

    images: dict[str, Tensor]
    photos: list[str]
    slices: list[tuple[Slice, str, str]]
    captions: dict[str, str]


def packages(cache: Path) -> dict[str, Path]:
    """The unpacked packages, downloaded by apt-get where the cache lacks them. Raises SgaError without Debian."""
    names = {*BROAD, *(package for package, _ in DOMAINS.values())}
    return {name: _unpacked(cache, name) for name in sorted(names)}


def _unpacked(cache: Path, name: str) -> Path:
    folder = cache / "packages" / name
    if folder.is_dir():
        return folder
    archives = cache / "deb"
    archives.mkdir(parents=True, exist_ok=True)
    try:
        if not any(archives.glob(f"{name}_*.deb")):
            subprocess.run(["apt-get", "download", name], cwd=archives, check=True)
        with whole_folder(folder) as part:
            subprocess.run(["dpkg", "-x", str(next(archives.glob(f"{name}_*.deb"))), str(part)], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SgaError(
            f"{name}: {error}; the study's pictures come from Debian packages: run it on Debian or Ubuntu,"
            f" or put {name}_*.deb into {archives}"
        ) from error
    return folder


def pictures(folder: Path) -> Iterator[Path]:
    """Files, never links: the packages link one picture under many names."""
    files = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    return (path for path in files if path.is_file() and not path.is_symlink())


def wallpapers(unpacked: dict[str, Path]) -> list[Path]:
    """Of each picture the largest version, by folder."""
    chosen: dict[Path, Path] = {}
    for package in BROAD:
        for path in pictures(unpacked[package]):
            # gnome and mate keep many pictures in a folder, plasma many sizes of one picture
            place = path if package != BROAD[0] else path.parent
            if place not in chosen or path.stat().st_size > chosen[place].stat().st_size:
                chosen[place] = path
    return sorted(chosen.values())


def on_white(path: Path, side: int) -> Image.Image:
    """The picture at most `side` pixels a side, on white where it is transparent."""
    with Image.open(path) as image:
        image.draft("RGB", (2 * side, 2 * side))
        rgba = image.convert("RGBA")
    rgba.thumbnail((side, side), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", rgba.size, "white")
    canvas.alpha_composite(rgba)
    return canvas.convert("RGB")


def shrunk(image: Image.Image) -> Tensor:
    """The middle square, averaged to (3, SIDE, SIDE) in [-1, 1]: what a trainer's bucket makes of a photo."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(square, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1


def make_broad(unpacked: dict[str, Path], out: Path, share: float = 1.0) -> None:
    """OUT/broad.pt: random crops of wallpapers, those held out last. share: of CROPS, for a quick run."""
    if (out / "broad.pt").is_file():
        return
    files = wallpapers(unpacked)[:: 1 if share == 1 else 6]
    rng = np.random.default_rng(0)
    rng.shuffle(files)  # type: ignore[arg-type]
    images = [on_white(path, 512) for path in files]
    held = max(1, round(len(images) * HELD_WALLPAPERS / 97))
    parts = {"train": range(held, len(images)), "held": range(held)}
    found = {name: _crops(images, list(of), int(CROPS[name] * share), rng) for name, of in parts.items()}
    with whole_file(out / "broad.pt") as part:
        torch.save(found, part)


def _crops(images: list[Image.Image], of: list[int], count: int, rng: np.random.Generator) -> dict[str, Tensor]:
    chosen = [of[number % len(of)] for number in range(count)]
    return {"images": torch.stack([_crop(images[i], rng) for i in chosen]), "which": torch.tensor(chosen)}


def _crop(image: Image.Image, rng: np.random.Generator) -> Tensor:
    """A square of a fifth to the whole of the shorter side, as likely flipped as not."""
    side = int(min(image.size) * rng.uniform(0.2, 1.0))
    left, top = rng.integers(image.width - side + 1), rng.integers(image.height - side + 1)
    crop = shrunk(image.crop((left, top, left + side, top + side)))
    return crop.flip(2) if rng.random() < 0.5 else crop


def make_domain(unpacked: dict[str, Path], name: str, out: Path, count: int = PHOTOS) -> None:
    """OUT/NAME.pt: the domain's photos and their slices by H-SD, siblings with one caption as H-SD writes them."""
    if (out / f"{name}.pt").is_file():
        return
    _write_photos(unpacked, name, out / name / "photos", count)
    levels = tuple(
        LevelConfig(level, SLICE_SIDE, ((SLICE_SIDE, SLICE_SIDE),), tau_down=4.0, tau_up=3.0) for level in LEVELS
    )
    rows = decompose(out / name / "photos", out / name / "slices", HsdConfig(levels, min_size=SLICE_SIDE)).rows
    images, slices, captions = {}, [], {}
    for row in rows:
        if row.file is None or row.group is None:
            continue
        photo = out / name / "photos" / row.source
        images[row.file] = shrunk(Image.open(out / name / "slices" / row.file).convert("RGB"))
        images[row.source] = shrunk(Image.open(photo))
        captions[row.source] = photo.with_suffix(".txt").read_text(encoding="utf-8")
        slices.append((row.file, row.granularity, row.group, row.source))
    with whole_file(out / f"{name}.pt") as part:
        torch.save({"images": images, "slices": slices, "captions": captions}, part)


def _write_photos(unpacked: dict[str, Path], name: str, folder: Path, count: int) -> None:
    package, belongs = DOMAINS[name]
    files = [path for path in pictures(unpacked[package]) if belongs(path.relative_to(unpacked[package]))]
    np.random.default_rng(1).shuffle(files)  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for path in files:
        image = on_white(path, PHOTO_SIDE)
        if min(image.size) < 2 * SLICE_SIDE or np.asarray(image).std() < 10:
            continue
        image.save(folder / f"{written:03}.png")
        (folder / f"{written:03}.txt").write_text(path.parent.name.replace("_", " "), encoding="utf-8")
        written += 1
        if written == count:
            return


def load_domain(out: Path, name: str) -> Domain:
    """What make_domain wrote; "mixed" joins both domains."""
    if name == "mixed":
        parts = [(other, load_domain(out, other)) for other in DOMAINS]
        return _joined(parts)
    found = torch.load(out / f"{name}.pt", weights_only=True)
    slices = [(Slice(0, file, level, (SIDE, SIDE)), group, photo) for file, level, group, photo in found["slices"]]
    return Domain(found["images"], sorted(found["captions"]), slices, found["captions"])


def _joined(parts: list[tuple[str, Domain]]) -> Domain:
    images, photos, slices, captions = {}, [], [], {}
    for name, domain in parts:
        images |= {f"{name}/{key}": image for key, image in domain.images.items()}
        photos += [f"{name}/{photo}" for photo in domain.photos]
        captions |= {f"{name}/{photo}": words for photo, words in domain.captions.items()}
        slices += [
            (Slice(0, f"{name}/{item.key}", item.granularity, item.bucket), f"{name}/{group}", f"{name}/{photo}")
            for item, group, photo in domain.slices
        ]
    return Domain(images, photos, slices, captions)


def by_photo(domain: Domain) -> dict[str, list[tuple[Slice, str, str]]]:
    found = defaultdict(list)
    for item in domain.slices:
        found[item[2]].append(item)
    return found
