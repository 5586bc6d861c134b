"""Finding, reading, resizing and encoding images. Pixels are RGB uint8 arrays of shape (H, W, 3)."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sga_kohya.hsd.geometry import Size

# .heic and .jxl need a Pillow plugin; without it they are reported by name instead of being passed over in silence.
EXTENSIONS = {".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".jxl", ".png", ".tif", ".tiff", ".webp"}

FORMATS: dict[str, dict[str, object]] = {
    # Level 1 is three times faster than the default and a tenth larger; encoding dominates the whole run.
    "png": {"format": "PNG", "compress_level": 1},
    "jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    "webp": {"format": "WEBP", "quality": 95},
}
"""File extension to Pillow's options."""


class UnreadableImage(Exception):
    """The bytes of one file are no image that can be read; the message says why."""


def find_images(folder: Path, skip: Path, marker: str) -> Iterator[Path]:
    """Image files below `folder`, sorted within each folder.

    Hidden files and folders are passed over, and so are `skip` and every sub-folder that holds a file named `marker`:
    results of this and of earlier runs are not photos.
    """
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and (here / name).resolve() != skip)
        if here != folder and marker in files:
            folders.clear()
            continue
        yield from (here / name for name in sorted(files) if not name.startswith(".") and _is_image(name))


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def decode_image(data: bytes) -> np.ndarray:
    """The first frame, upright (EXIF orientation applied), in RGB; transparency lies on white.

    Raises UnreadableImage for anything that Pillow cannot read or refuses as a decompression bomb.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    except UnidentifiedImageError:
        raise UnreadableImage("no image, or of a format that needs a Pillow plugin (HEIC: pillow-heif)") from None
    # On damaged files Pillow's decoders raise almost anything: SyntaxError, struct.error, IndexError, zlib.error, …
    except Exception as error:
        raise UnreadableImage(str(error) or type(error).__name__) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # convert("RGB") clips 16 bits at 255, which turns the photo white.
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def resize(pixels: np.ndarray, size: Size) -> np.ndarray:
    """Lanczos to (width, height); the same pixels when that is their size already.

    reducing_gap 3 averages large photos down first: several times faster, and hardly to be told from the slow way.
    """
    if pixels.shape[1::-1] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))


def encode_image(pixels: np.ndarray, extension: str) -> bytes:
    """The bytes of a file of that extension (a key of FORMATS), without metadata."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **FORMATS[extension])  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()
