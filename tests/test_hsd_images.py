"""sga_kohya.hsd: reading what people really have, resizing, and the PNG writer."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from sga_kohya.hsd.out.strips import view
from sga_kohya.hsd.photos import images, png
from sga_kohya.hsd.photos.filters.near_duplicates import perceptual_hash
from sga_kohya.hsd.photos.images import UnreadableImage, decode_image, encode_image
from sga_kohya.hsd.photos.scaling import fit, halved, resize, shrink
from sga_kohya.kit.pictures import SUFFIXES


def saved(image: Image.Image, extension: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, extension, **options)
    return buffer.getvalue()


def photo(width: int = 240, height: int = 180, seed: int = 0) -> np.ndarray:
    """Smooth colours with some detail."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((width, height))
    return (np.asarray(coarse).astype(int) + random.integers(-6, 7, (height, width, 3))).clip(0, 255).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2)))


def test_what_needs_no_change_is_read_without_a_note():
    pixels = photo()
    for extension in ("PNG", "BMP", "TIFF"):
        read, notes = decode_image(saved(Image.fromarray(pixels), extension))
        assert np.array_equal(read, pixels) and notes == (), extension
    opaque = Image.fromarray(pixels).convert("RGBA")
    assert decode_image(saved(opaque, "PNG"))[1] == (), "an alpha channel that hides nothing"


@pytest.mark.parametrize("extension", ["AVIF", "WEBP"])
def test_newer_formats(extension):
    read, notes = decode_image(saved(Image.fromarray(photo()), extension, quality=95))
    assert psnr(read, photo()) > 30 and notes == ()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparency_lies_on_white_and_is_said(mode):
    layer = Image.fromarray(np.full((40, 40, 3), (0, 0, 0), np.uint8)).convert("RGBA")
    layer.paste((200, 200, 200, 0), (0, 0, 20, 40))
    if mode == "P":
        image = Image.fromarray(np.repeat([[0] * 20 + [1] * 20], 40, axis=0).astype(np.uint8), "P")
        image.putpalette([200, 200, 200, 0, 0, 0])
        data = saved(image, "PNG", transparency=0)
    elif mode == "PA":
        data = saved(layer.quantize(4), "PNG")
    else:
        data = saved(layer.convert(mode), "PNG")
    read, notes = decode_image(data)
    assert read[5, 5].tolist() == [255] * 3 and read[5, 35].tolist() == [0] * 3
    assert notes == ("transparency laid on white",)


def test_half_transparency_blends():
    read, _ = decode_image(saved(Image.new("RGBA", (8, 8), (100, 0, 200, 128)), "PNG"))
    assert np.abs(read[0, 0] - np.array([177, 127, 227])).max() <= 1


def test_the_first_of_several_frames_and_it_is_said():
    frames = [Image.new("RGB", (32, 32), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    for extension in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"lossless": True} if extension == "WEBP" else {}
        data = saved(frames[0], extension, save_all=True, append_images=frames[1:], **options)
        read, notes = decode_image(data)
        assert read[0, 0].tolist() == [250, 0, 0] and notes == ("first of 3 frames",), extension


@pytest.mark.parametrize(
    ("values", "expected", "said"),
    [
        (np.full((9, 9), 257 * 100, np.uint16), 100, ""),
        (np.full((9, 9), 65535, np.uint16), 255, ""),
        (np.full((9, 9), 4096, np.uint16), 15, ""),
        (np.full((9, 9), 4095, np.uint16), 255, ", from 0 to 4095"),
        (np.full((9, 9), 300, np.uint16), 18, ", from 0 to 4095"),
        (np.full((9, 9), 200, np.uint16), 200, ", from 0 to 255"),
        (np.full((9, 9), 2**20, np.int32), 255, ", from 0 to 1048576"),
        (np.full((9, 9), 0.5, np.float32), 127, ""),
        (np.full((9, 9), 200.0, np.float32), 200, ""),
        (np.full((9, 9), np.nan, np.float32), 0, ""),
    ],
)
def test_deep_pixels_are_scaled_not_clipped(values, expected, said):
    read, notes = decode_image(saved(Image.fromarray(values), "TIFF"))
    assert read.shape == (9, 9, 3) and np.unique(read).tolist() == [expected]
    assert notes == (f"reduced to 8 bits{said}",)


def tiff_of_12_bits(values: np.ndarray) -> bytes:
    """As a camera writes it: two values in three bytes, BitsPerSample 12. values: (H, W), W even."""
    first, second = values[:, ::2].astype(int), values[:, 1::2].astype(int)
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1).astype(np.uint8).tobytes()
    height, width = values.shape
    tags = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHI", b"II", 42, 8 + len(packed)) + packed + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_a_tiff_of_12_bits_is_as_bright_as_it_was():
    values = np.tile(np.array([0, 1024, 2048, 3000], np.uint16), (4, 2))
    read, notes = decode_image(tiff_of_12_bits(values))
    assert read[0, :4, 0].tolist() == [0, 64, 128, 187] and notes == ("reduced to 8 bits, from 0 to 4095",)
    dark, _ = decode_image(tiff_of_12_bits(values // 16))
    assert dark[0, :4, 0].tolist() == [0, 4, 8, 11], "by its own word, not by its brightest pixel"


def swapped_profile() -> bytes:
    """sRGB with red and blue exchanged: no one can mistake its colours for sRGB."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(profile[128:132], "big")
    tags = {bytes(profile[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, blue = (bytes(profile[tags[name] + 4 : tags[name] + 12]) for name in (b"rXYZ", b"bXYZ"))
    profile[tags[b"rXYZ"] + 4 : tags[b"rXYZ"] + 12], profile[tags[b"bXYZ"] + 4 : tags[b"bXYZ"] + 12] = blue, red
    return bytes(profile).replace(b"sRGB", b"odd ").replace("sRGB".encode("utf-16-be"), "odd ".encode("utf-16-be"))


def test_colours_of_another_profile_become_srgb():
    image = Image.new("RGB", (16, 16), (200, 40, 10))
    read, notes = decode_image(saved(image, "PNG", icc_profile=swapped_profile()))
    assert np.abs(read[0, 0].astype(int) - (10, 40, 200)).max() <= 3
    assert len(notes) == 1 and notes[0].startswith("colours converted from odd")
    image.putalpha(255)
    image.paste((0, 0, 0, 0), (8, 0, 16, 16))
    read, notes = decode_image(saved(image, "PNG", icc_profile=swapped_profile()))
    assert np.abs(read[0, 0].astype(int) - (10, 40, 200)).max() <= 3 and read[0, 12].tolist() == [255] * 3
    assert len(notes) == 2


def test_srgb_and_damaged_profiles_change_nothing():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.new("RGB", (16, 16), (200, 40, 10))
    for profile, said in ((srgb, ()), (b"no profile", ("colour profile cannot be used: taken as sRGB",))):
        read, notes = decode_image(saved(image, "PNG", icc_profile=profile))
        assert read[0, 0].tolist() == [200, 40, 10] and notes == said
    for mode, grey in (("CMYK", [255 - 60] * 3), ("L", [60] * 3)):
        image = Image.new(mode, (16, 16), (60, 60, 60, 0) if mode == "CMYK" else 60)
        read, notes = decode_image(saved(image, "TIFF", icc_profile=srgb))
        assert np.abs(read[0, 0].astype(int) - grey).max() <= 1, "a profile for other channels than the image has"
        assert notes == ("colour profile cannot be used: taken as sRGB",)


def test_damaged_exif_loses_the_orientation_and_nothing_else(monkeypatch):
    def broken(*args, **kwargs):
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(images.ImageOps, "exif_transpose", broken)
    read, notes = decode_image(saved(Image.fromarray(photo()), "PNG"))
    assert np.array_equal(read, photo()) and notes == ("damaged EXIF: orientation not applied",)


def test_all_orientations_end_upright():
    upright = photo(64, 48)
    for value in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = value
        undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that exif_transpose inverts
        stored = Image.fromarray(upright)
        if value in undo:
            stored = stored.transpose(Image.Transpose(undo[value]))
        assert np.array_equal(decode_image(saved(stored, "PNG", exif=exif))[0], upright), value


def test_what_cannot_be_read_says_why(monkeypatch):
    whole = saved(Image.fromarray(photo()), "PNG")
    with pytest.raises(UnreadableImage, match="truncated"):
        decode_image(whole[: len(whole) // 2])
    with pytest.raises(UnreadableImage, match="pillow-heif"):
        decode_image(b"\x00\x00\x00\x18ftypheic" + bytes(100))
    with pytest.raises(UnreadableImage):
        decode_image(b"")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImage, match="above the limit of 0 megapixels, make a smaller copy"):
        decode_image(whole)


@pytest.mark.parametrize("size", [(220, 165), (160, 120), (121, 91), (80, 60), (37, 28)])
def test_smaller_is_what_lanczos_makes(size):
    pixels = photo()
    expected = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    made = resize(pixels, size)
    assert made.shape[1::-1] == size and psnr(made, expected) > 38


def test_smaller_does_not_alias():
    """A pattern that is too fine for the result ends nearly grey; picked pixels would keep a deviation of 127."""
    stripes = np.zeros((300, 300, 3), np.uint8)
    stripes[:, ::2] = 255
    for side in (170, 160, 140, 100, 70):
        assert resize(stripes, (side, side)).astype(int)[10:-10, 10:-10].std() < 43, side


def test_larger_is_lanczos_and_equal_is_untouched():
    pixels = photo(60, 40)
    expected = np.asarray(Image.fromarray(pixels).resize((90, 64), Image.Resampling.LANCZOS))
    assert np.array_equal(resize(pixels, (90, 64)), expected)
    assert resize(pixels, (60, 40)) is pixels
    assert shrink(photo(900, 700), (90, 70)).shape == (70, 90, 3) and shrink(pixels, (90, 70)).shape == (70, 90, 3)


@pytest.mark.parametrize("shape", [(1200, 1800), (700, 901), (333, 512), (213, 320)])
def test_a_small_copy_is_nearly_the_mean_of_all_pixels(shape):
    """And no pixel is passed over: what is as fine as a chess board of single pixels becomes grey."""
    pixels = photo(*shape[::-1])
    mean = fit(pixels, 320)
    assert psnr(shrink(pixels, mean.shape[1::-1]), mean) > 40
    board = np.zeros((*shape, 3), np.uint8)
    board[::2, ::2] = board[1::2, 1::2] = 255
    small = shrink(board, (120, 80)).astype(float)
    assert abs(small.mean() - 127.5) < 2 and small.std() < 40


@pytest.mark.parametrize("shape", [(1200, 1800), (701, 901), (213, 320), (1, 9), (90, 1), (1, 1)])
def test_small_copies_from_one_half_are_those_from_all_pixels(shape):
    pixels = photo(*shape[::-1])
    half = halved(pixels) if min(shape) > 1 else None
    assert perceptual_hash(pixels, half) == perceptual_hash(pixels)
    for side in (640, 320, 40):
        assert view(pixels, side, half) == view(pixels, side)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (64, 3), (333, 77)])
def test_the_png_writer_loses_nothing(size, monkeypatch):
    for channels, mode in ((1, "L"), (4, "RGBA")):
        pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
        with Image.open(io.BytesIO(encode_image(pixels, "png"))) as image:
            assert image.mode == mode and np.array_equal(
                np.asarray(image), pixels.squeeze(2) if mode == "L" else pixels
            )
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    for deflate in {png._deflate, png._zlib}:
        monkeypatch.setattr(png, "_deflate", deflate)
        data = encode_image(pixels, "png")
        with Image.open(io.BytesIO(data)) as image:
            image.verify()  # checksums
        with Image.open(io.BytesIO(data)) as image:
            assert image.info == {} and image.mode == "RGB"
            assert np.array_equal(np.asarray(image), pixels)
    view = np.broadcast_to(pixels[:, ::-1], pixels.shape)
    assert np.array_equal(decode_image(encode_image(view, "png"))[0], view), "strides of its own"


def test_the_png_writer_compresses():
    flat, smooth = np.full((256, 256, 3), 7, np.uint8), photo(256, 256)
    assert len(encode_image(flat, "png")) < 2000
    assert len(encode_image(smooth, "png")) < 1.1 * len(saved(Image.fromarray(smooth), "PNG", compress_level=1))


def test_the_png_writer_refuses_other_pixels():
    with pytest.raises(ValueError, match="uint8 is wanted"):
        png.encode_png(np.zeros((4, 4, 2), np.uint8))


def test_the_hash_knows_a_photo_again_and_tells_others_apart():
    data = pytest.importorskip("skimage.data")
    photos = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    hashes = [int(perceptual_hash(pixels), 16) for pixels in photos]
    for pixels, value in zip(photos, hashes, strict=True):
        height, width = pixels.shape[:2]
        smaller = resize(np.ascontiguousarray(pixels), (width // 2, height // 2))
        worse = decode_image(saved(Image.fromarray(pixels), "JPEG", quality=40))[0]
        for again in (smaller, worse):
            assert bin(int(perceptual_hash(again), 16) ^ value).count("1") <= 4
    distances = [bin(a ^ b).count("1") for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(distances) > 12


def art(colour: tuple[int, int, int], mode: str = "RGBA") -> bytes:
    """A figure of one colour on nothing."""
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    image.paste((*colour, 255), (16, 16, 48, 48))
    return saved(image.convert(mode), "PNG")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_white_art_on_nothing_is_laid_on_grey(mode):
    read, notes = decode_image(art((250, 250, 250), mode))
    assert read[5, 5].tolist() == [128] * 3 and read[30, 30].tolist() == [250] * 3
    assert notes == ("transparency laid on grey, as the rest is nearly white",)
    read, notes = decode_image(art((200, 200, 200), mode))
    assert read[5, 5].tolist() == [255] * 3 and notes == ("transparency laid on white",)
    assert decode_image(saved(Image.new("RGBA", (8, 8)), "PNG"))[0].tolist() == [[[255] * 3] * 8] * 8, "nothing opaque"


def test_real_art_and_real_photos_are_read(tmp_path):
    """What Pillow writes of a real photo in each format that it both writes and reads."""
    data = pytest.importorskip("skimage.data")
    photo = Image.fromarray(data.astronaut()).resize((256, 256))
    Image.init()
    for suffix in sorted(SUFFIXES & Image.EXTENSION.keys() - {".pbm", ".heic", ".heif", ".hif", ".jxl"}):
        name = Image.EXTENSION[suffix]
        if name not in Image.SAVE or name not in Image.OPEN:
            continue
        wanted = photo.convert("L") if suffix == ".pgm" else photo
        wanted.save(tmp_path / f"photo{suffix}", name)
        read, _ = decode_image((tmp_path / f"photo{suffix}").read_bytes())
        assert psnr(read, np.asarray(wanted.convert("RGB"))) > 20, suffix
