"""By what a partition is made: a number for each image that orders it from coarse to fine, or chance."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from sga_kohya.errors import SgaError

AREA = 512
"""Side of the square that an image is scaled to the area of, so that only its content counts, not its file's size."""
CUT = 0.25
"""Cycles per pixel above which a frequency is high: half of what the grid can hold."""


def resolution(path: Path) -> float:
    """Megapixels, from the file's header alone."""
    with Image.open(path) as image:
        return image.width * image.height / 1e6


def frequency(path: Path) -> float:
    """Share of an image's spectral energy that is at high frequencies, in [0, 1]; 0 for one flat colour."""
    with Image.open(path) as image:
        image.draft("L", (2 * AREA, 2 * AREA))  # a JPEG is decoded at a fraction of its size where that is enough
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):  # 16 bits; convert("L") would clip them
            grey = np.asarray(upright).astype(np.float32) / 257
        else:
            grey = np.asarray(upright.convert("L"), np.float32)
    return high_frequency_share(grey)


def high_frequency_share(grey: np.ndarray) -> float:
    """grey: (H, W) float32. Hann-windowed, because the jump from one edge to the other is no content."""
    factor = AREA / (grey.shape[0] * grey.shape[1]) ** 0.5
    size = tuple(max(8, round(side * factor)) for side in grey.shape[1::-1])
    scaled = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    window = np.hanning(size[1])[:, None] * np.hanning(size[0])
    energy = np.abs(np.fft.rfft2((scaled - scaled.mean()) * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(size[1])[:, None], np.fft.rfftfreq(size[0]))
    total = float(energy.sum())
    # Below this there is only rounding error.
    return float(energy[radius > CUT].sum()) / total if total > 1e-3 * energy.size else 0.0


def equal_parts(values: Sequence[float], count: int) -> list[int]:
    """For each value the number of its part, 0 to count - 1, lowest values first; parts are as equal as ties allow.

    Equal values share a part, so that the result depends on nothing but the values. Raises SgaError when there are
    fewer different values than parts.
    """
    tally = sorted(Counter(values).items())
    if len(tally) < count:
        raise SgaError(f"only {len(tally)} different values for {count} labels: use fewer labels, or another --by")
    before = np.cumsum([0] + [number for _, number in tally])
    cuts: list[int] = []
    for part in range(1, count):
        # Room for the parts still to come, each of which needs a value.
        allowed = range((cuts[-1] if cuts else 0) + 1, len(tally) - (count - part) + 1)
        cuts.append(min(allowed, key=lambda i: abs(before[i] - part * len(values) / count)))
    edges = [tally[i][0] for i in cuts]
    return [int(np.searchsorted(edges, value, side="right")) for value in values]


def by_chance(number: int, count: int, seed: int) -> list[int]:
    """The control: parts of equal size, dealt out at random."""
    if number < count:
        raise SgaError(f"only {number} images for {count} labels: use fewer labels")
    dealt = np.arange(number) * count // number
    np.random.default_rng(seed).shuffle(dealt)
    return [int(part) for part in dealt]
