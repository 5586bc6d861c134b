"""Reading and encoding images. Pixels are RGB uint8 arrays of shape (H, W, 3)."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from sga_kohya.hsd.photos.png import encode_png

PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_jxl": ""}
"""Pillow plugins that are used where they are installed, and what turns them on where importing does not."""

FORMATS: dict[str, dict[str, Any]] = {
    "png": {},
    "jpg": {},
    "webp": {"format": "WEBP", "quality": 95},
}
"""File extension to Pillow's options; PNG is written by `png`, JPEG by OpenCV: the same size a third faster."""

NEARLY_WHITE = 224
"""Luma, of 255, from which on a pixel hardly shows on white."""
MOSTLY = 0.9
"""Share of the opaque pixels that are nearly white in art that would be a blank picture on white."""
GREY = (128, 128, 128)
LAID = "transparency laid on"
"""Begins the note of a picture with transparency."""
BITS_PER_SAMPLE = 258
"""TIFF's tag."""
SIXTEEN_BITS = 65535
BAND = 128
"""Rows that are copied at a time from Pillow."""
PLAIN = {"RGB", "L", "P", "CMYK", "YCbCr"}
PLAIN_BYTES, OTHER_BYTES = 12, 20
"""Memory that decoding takes at most for a pixel, the file included, in these modes and in others, or with
transparency: measured were 7 to 11.5 and 15.5 to 19.6."""

JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


class UnreadableImage(Exception):
    """The bytes of one file are no image that can be read; the message says why."""


class Header(NamedTuple):
    """Of a picture. memory: bytes that decoding it takes at most, about."""

    pixels: int
    memory: int


def read_header(path: Path) -> Header:
    """Zeros where it cannot be read: such a file is not decoded either."""
    # Whatever is wrong with the file is reported when it is loaded.
    with suppress(Exception), Image.open(path) as image:
        pixels = image.width * image.height
        plain = image.mode in PLAIN and not image.has_transparency_data
        return Header(pixels, pixels * (PLAIN_BYTES if plain else OTHER_BYTES))
    return Header(0, 0)


@cache
def load_plugins() -> None:
    """Makes Pillow read HEIC and JPEG XL where their plugins are installed."""
    for name, register in PLUGINS.items():
        with suppress(ImportError):
            plugin = import_module(name)
            if register:
                getattr(plugin, register)()


def decode_image(data: bytes) -> tuple[np.ndarray, tuple[str, ...]]:
    """The first frame, upright (EXIF orientation applied), in sRGB; what is transparent lies on white.

    Where the rest is nearly white, it lies on grey. Returns (H, W, 3) RGB uint8 and what a user should know was
    changed. Raises UnreadableImage for anything that Pillow cannot read or refuses as a decompression bomb.
    """
    with _opened(data) as image:
        notes = [f"first of {getattr(image, 'n_frames', 1)} frames"] if _is_animated(image) else []
        return _to_srgb(_upright(image, notes), notes), tuple(notes)


def decode_alpha(data: bytes) -> np.ndarray | None:
    """How opaque the first frame is, upright: (H, W) uint8; None where all of it is. Raises as `decode_image`."""
    with _opened(data) as image:
        upright = _upright(image, [])
        if not upright.has_transparency_data:
            return None
        alpha = np.asarray(upright.convert("RGBA").getchannel("A"))
        return alpha if alpha.min() < 255 else None


def decode_slice(data: bytes) -> np.ndarray:
    """(H, W, 3) RGB uint8 of a slice as trainers read it: what lies below its transparency is its picture."""
    with _opened(data) as image:
        return np.asarray(image.convert("RGB"))


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            yield image
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
        image = _to_8_bits(image, notes)
    if image.mode in ("P", "PA", "1", "LA", "La", "RGBa") or transparent:
        image = image.convert("RGBA" if transparent else "RGB")
    alpha = image.getchannel("A") if transparent else None
    if alpha:
        image = image.convert("RGB")
    if profile:
        image = _from_profile(image, profile, notes)
    if image.mode != "RGB":
        image = image.convert("RGB")
    if alpha and np.asarray(alpha).min() < 255:
        image = _on_background(image, alpha, notes)
    return _pixels(image)


def _pixels(image: Image.Image) -> np.ndarray:
    """(H, W, 3) RGB uint8 of an RGB picture, band by band: NumPy's own way holds all of it twice on the way."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, BAND):
        bottom = min(top + BAND, height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, width, bottom)))
    return pixels


def _on_background(image: Image.Image, alpha: Image.Image, notes: list[str]) -> Image.Image:
    """RGB pixels on white, as most viewers show them, or on grey where what is opaque would vanish there."""
    opaque = alpha.point(lambda value: 255 if value >= 128 else 0)
    counts = image.convert("L").histogram(opaque)
    white_art = sum(counts[NEARLY_WHITE:]) > MOSTLY * sum(counts)
    notes.append(f"{LAID} grey, as the rest is nearly white" if white_art else f"{LAID} white")
    return Image.composite(image, Image.new("RGB", image.size, GREY if white_art else "white"), alpha)


def _to_8_bits(image: Image.Image, notes: list[str]) -> Image.Image:
    """convert("RGB") clips at 255, which turns such a photo white. Floats span 0 to 1 or to 255."""
    values = np.nan_to_num(np.asarray(image).astype(np.float32))
    note = "reduced to 8 bits"
    if image.mode == "F":
        values = values * 255 if values.max() <= 1 else values
    else:
        white = _white_value(image, int(values.max()))
        # Down, not to the nearest: 255 stands for the highest 257 of 65536 values, like any other.
        values = values / (white / 255 if white >= SIXTEEN_BITS else (white + 1) / 256) + 1e-3
        note += f", from 0 to {white}" if white != SIXTEEN_BITS else ""
    notes.append(note)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def _white_value(image: Image.Image, highest: int) -> int:
    """What white is in a picture of integers whose brightest pixel is `highest`.

    The file's own word where it is below 16 bits. Else by what is there: cameras and microscopes write 8 or 12 bits
    into files of 16, and a photo that uses no more of 65536 values would be black. Above 16 bits it is `highest`.
    """
    bits = image.tag_v2.get(BITS_PER_SAMPLE, (16,))[0] if isinstance(image, TiffImageFile) else 16
    if 8 <= bits < 16:
        return 2**bits - 1
    return next((white for white in (255, 4095, SIXTEEN_BITS) if highest <= white), highest)


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


def encode_image(pixels: np.ndarray, extension: str) -> bytes:
    """The bytes of a file of that extension (a key of FORMATS), without metadata. pixels: (H, W, 3), or with an alpha
    channel (H, W, 4), which JPEG cannot hold."""
    if extension == "png":
        return encode_png(pixels)
    if extension == "jpg":
        return cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), JPEG)[1].tobytes()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **FORMATS[extension])
    return buffer.getvalue()
