"""Finding, reading, resizing and encoding images. Pixels are RGB uint8 arrays of shape (H, W, 3)."""

import io
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from sga_kohya.hsd.cut.geometry import Size
from sga_kohya.hsd.photos.png import encode_png

# .heic and .jxl need a Pillow plugin; without it they are reported by name instead of being passed over in silence.
EXTENSIONS = {".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".jxl", ".png", ".tif", ".tiff", ".webp"}
PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_jxl": ""}
"""Pillow plugins that are used where they are installed, and what turns them on where importing does not."""

FORMATS: dict[str, dict[str, object]] = {
    "png": {},
    "jpg": {},
    "webp": {"format": "WEBP", "quality": 95},
}
"""File extension to Pillow's options; PNG is written by `png`, JPEG by OpenCV: the same size a third faster."""

JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


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
        yield from (here / name for name in sorted(files) if not name.startswith(".") and _is_image(here / name))


def _is_image(path: Path) -> bool:
    # A broken link counts, so that it is reported; a pipe or a device does not, as reading it might never end.
    return path.suffix.lower() in EXTENSIONS and (path.is_file() or not path.exists())


@cache
def load_plugins() -> None:
    """Makes Pillow read HEIC and JPEG XL where their plugins are installed."""
    for name, register in PLUGINS.items():
        with suppress(ImportError):
            plugin = import_module(name)
            if register:
                getattr(plugin, register)()


def decode_image(data: bytes) -> tuple[np.ndarray, tuple[str, ...]]:
    """The first frame, upright (EXIF orientation applied), in sRGB; transparency lies on white.

    Returns (H, W, 3) RGB uint8 and what a user should know was changed. Raises UnreadableImage for anything that
    Pillow cannot read or refuses as a decompression bomb.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            notes = [f"first of {image.n_frames} frames"] if _is_animated(image) else []
            return _to_srgb(_upright(image, notes), notes), tuple(notes)
    except (UnidentifiedImageError, ImportError):  # ultralytics, once imported, makes Pillow ask for its own plugin
        raise UnreadableImage(
            "Pillow cannot identify it: damaged, or of a format that needs a plugin "
            "(HEIC: pillow-heif, JPEG XL: pillow-jxl-plugin)"
        ) from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise UnreadableImage(f"above the limit of {limit:.0f} megapixels, make a smaller copy") from None
    # On damaged files Pillow's decoders raise almost anything: SyntaxError, struct.error, IndexError, zlib.error, …
    except Exception as error:
        raise UnreadableImage(str(error) or type(error).__name__) from error


def _is_animated(image: Image.Image) -> bool:
    # Phones write MPO: a JPEG with a preview or a second view behind the photo.
    return getattr(image, "is_animated", False) and image.format != "MPO"


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    try:
        ImageOps.exif_transpose(image, in_place=True)
        return image
    except Exception:
        image.load()  # the file's own damage is raised here
        notes.append("damaged EXIF: orientation not applied")
        return image


def _to_srgb(image: Image.Image, notes: list[str]) -> np.ndarray:
    profile, transparent = image.info.get("icc_profile"), image.has_transparency_data
    if image.mode.startswith("I") or image.mode == "F":
        notes.append("reduced to 8 bits")
        image = _to_8_bits(image)
    if image.mode in ("P", "PA", "1", "LA", "La", "RGBa") or transparent:
        image = image.convert("RGBA" if transparent else "RGB")
    alpha = image.getchannel("A") if transparent else None
    if alpha:
        image = image.convert("RGB")
    if profile:
        image = _from_profile(image, profile, notes)
    if image.mode != "RGB":
        image = image.convert("RGB")
    if alpha and alpha.getextrema()[0] < 255:
        notes.append("transparency laid on white")
        image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    return np.asarray(image)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """convert("RGB") clips at 255, which turns such a photo white. Integers span 16 bits, floats 0 to 1 or to 255."""
    values = np.nan_to_num(np.asarray(image).astype(np.float32))
    # Down, not to the nearest: 255 stands for the highest 257 of 65536 values, like any other.
    scale = 1 / 257 if image.mode != "F" else 255.0 if values.max() <= 1 else 1.0
    return Image.fromarray((values * scale + 1e-3).clip(0, 255).astype(np.uint8))


def _from_profile(image: Image.Image, profile: bytes, notes: list[str]) -> Image.Image:
    """From the colours of an ICC profile to sRGB; unchanged, with a note, where the profile cannot be used."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = ImageCms.getProfileDescription(source).strip() or "an unnamed profile"
        if "sRGB" in name and image.mode == "RGB":
            return image
        converted = ImageCms.profileToProfile(image, source, _srgb(), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        notes.append("colour profile cannot be used: taken as sRGB")
        return image
    if image.mode != "L":
        notes.append(f"colours converted from {name}")
    return converted or image


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def resize(pixels: np.ndarray, size: Size) -> np.ndarray:
    """To (width, height); the same pixels when that is their size already.

    Smaller: blurred against aliasing and sampled by bicubic interpolation, or averaged where the factor is 2 or more;
    above 50 dB PSNR of Pillow's Lanczos on photos, at a tenth of its time. Larger: Lanczos.
    """
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    factors = width / size[0], height / size[1]
    if min(factors) < 1:
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    if max(factors) >= 2:
        return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    # Fitted to Lanczos: nothing at factor 1, three taps suffice up to 2.
    sigma_x, sigma_y = (0.4 * factor - 0.04 for factor in factors)
    blurred = cv2.GaussianBlur(pixels, (3, 3), sigma_x, sigmaY=sigma_y)
    return cv2.resize(blurred, size, interpolation=cv2.INTER_CUBIC)


def shrink(pixels: np.ndarray, size: Size) -> np.ndarray:
    """A small copy of (width, height) to look at or to hash: not every pixel of a large picture counts, for speed."""
    height, width = pixels.shape[:2]
    step = max(1, min(width // size[0], height // size[1]) // 2)
    sampled = cv2.resize(pixels, (width // step, height // step), interpolation=cv2.INTER_NEAREST)
    return cv2.resize(sampled, size, interpolation=cv2.INTER_AREA)


def encode_image(pixels: np.ndarray, extension: str) -> bytes:
    """The bytes of a file of that extension (a key of FORMATS), without metadata."""
    if extension == "png":
        return encode_png(pixels)
    if extension == "jpg":
        return cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), JPEG)[1].tobytes()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **FORMATS[extension])  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()
