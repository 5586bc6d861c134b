"""Target sizes: what sd-scripts' buckets accept without resizing or cropping."""

from functools import cache

from sga_kohya.hsd.cut.geometry import Size

BUCKET_STEPS = 64
"""`bucket_reso_steps`: sd-scripts asserts a multiple of 64 for FLUX, and its other models accept it."""


@cache
def target_sizes(resolution: int, min_size: int = 256, steps: int = BUCKET_STEPS) -> tuple[Size, ...]:
    """All (width, height) in multiples of `steps`, sides from `min_size` to 2 * resolution, area <= resolution².

    With `bucket_no_upscale` a file of such a size gets a bucket of exactly its size. The upper limit keeps aspect
    ratios within about 4:1, beyond which models are hardly trained.
    """
    sides = range(steps * -(-min_size // steps), 2 * resolution + 1, steps)
    return tuple((width, height) for width in sides for height in sides if width * height <= resolution**2)
