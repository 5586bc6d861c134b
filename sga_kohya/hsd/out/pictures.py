"""A picture that is trained on and its mask, as files: the one inside the other, or side by side."""

from collections.abc import Callable

import numpy as np

from sga_kohya.hsd.masks.sources import ALPHA, are_beside
from sga_kohya.hsd.out.files import mask_file
from sga_kohya.hsd.photos.images import encode_image
from sga_kohya.hsd.photos.png import encode_png
from sga_kohya.hsd.settings.config import HsdConfig


def picture_files(
    file: str, picture: np.ndarray, mask: Callable[[], np.ndarray], config: HsdConfig
) -> dict[str, bytes]:
    """What is written, by file. picture: (H, W, 3) RGB uint8. mask: gives (H, W) uint8, where masks are wanted."""
    if are_beside(config.masks):
        return {mask_file(file): encode_png(mask()[..., None]), file: encode_image(picture, config.format)}
    if config.masks == ALPHA:  # of all photos alike: ai-toolkit asks every slice for its transparency
        picture = np.dstack([picture, mask()])
    return {file: encode_image(picture, config.format)}
