"""CountSketch (Charikar et al. 2002): a long vector to a short one whose inner products are those of the long ones.

Unbiased; the error of a cosine is at most sqrt(2 / width) as a standard deviation, sqrt(1 / width) where the vectors
are about orthogonal. Linear, so sketches of parts add up, over sub-batches and over processes.
"""

import torch
from torch import Tensor

from sga_kohya.tuples.randomness import seed_of

WIDTH = 4096
_CHUNK = 1 << 22  # numbers at once, so that random places need little memory


def sketch(vector: Tensor, name: str, width: int = WIDTH) -> Tensor:
    """Each element, with a random sign, into a random one of `width` sums. vector: (n,), float32. Returns (width,).

    name: of the vector's space; the same name, length, width and kind of device give the same projection.
    """
    generator = torch.Generator(vector.device).manual_seed(seed_of(("sketch", name)))
    sums = torch.zeros(2 * width, device=vector.device)  # of each place: what counts, then what counts negatively
    for part in vector.split(_CHUNK):
        places = torch.randint(2 * width, part.shape, generator=generator, device=vector.device, dtype=torch.int32)
        sums.index_add_(0, places, part)
    return sums[:width] - sums[width:]
