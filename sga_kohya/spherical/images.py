"""Photos as tensors in [-1, 1], upright and RGB, resized by their shorter side and cut to a square."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sga_kohya.errors import SgaError
from sga_kohya.kit.files import whole_file
from sga_kohya.kit.pictures import is_picture


def find_images(folder: Path) -> list[Path]:
    """All images in a folder and below, sorted. Raises SgaError when there is none."""
    found = sorted(filter(is_picture, folder.rglob("*"))) if folder.is_dir() else []
    if not found:
        raise SgaError(f"{folder}: no images there (.png, .jpg, .webp, …); give a folder of photos")
    return found


def load_square(path: Path, size: int, rng: random.Random | None = None) -> Tensor:
    """(3, size, size). With rng: cut anywhere and flipped half of the time, else from the middle."""
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except OSError as error:
        raise SgaError(f"{path}: not a readable image ({error}); remove it") from None
    scale = size / min(image.size)
    image = image.resize([max(size, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)
    room = [side - size for side in image.size]
    left, top = [rng.randint(0, free) for free in room] if rng else [free // 2 for free in room]
    image = image.crop((left, top, left + size, top + size))
    if rng and rng.random() < 0.5:
        image = ImageOps.mirror(image)
    return torch.from_numpy(np.asarray(image, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1


def load_squares(paths: Sequence[Path], size: int) -> Tensor:
    """(B, 3, size, size), cut from the middle."""
    return torch.stack([load_square(path, size) for path in paths])


def save_grid(rows: Sequence[Tensor], path: Path) -> None:
    """A picture of rows of images, each (B, 3, H, W) in [-1, 1]."""
    cells = [torch.cat(list(row.clamp(-1, 1)), dim=2) for row in rows]
    pixels = ((torch.cat(cells, dim=1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    with whole_file(path) as part:
        Image.fromarray(pixels).save(part, format="PNG")
