"""What the trainer must know of a family of diffusers models; the records are in families/, one file each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sga_kohya.reference.text import Text


def _any_size(config: Any) -> int | None:
    return None


@dataclass(frozen=True)
class Family:
    """How the pipelines of a family are trained.

    arch: "dit" if the network is the pipeline's `transformer`, "unet" if it is its `unet`.
    flow: whether it learns a velocity, from latents to noise; otherwise what its noise schedule says.
    blocks: classes of modules whose linear layers (attention and MLP) get an adapter.
    predict: (network, noisy (B, C, H, W), timesteps (B,) in 0-1000, text, pixels that a latent's side covers) ->
        prediction (B, C, H, W), a velocity positive towards noise. Packing, scale and sign of the family are its.
    encode: (pipeline, one caption) -> its text as the pipeline itself makes it.
    text_widths: (network's config) -> widths of the tokens and of the pooled embedding (None: not used).
    multiple: (network's config) -> sides of latents must be multiples of this.
    largest: (network's config) -> the longest side of latents that its positions reach, None for any.
    """

    arch: str
    flow: bool
    blocks: tuple[str, ...]
    predict: Callable[[Any, Tensor, Tensor, Text, int], Tensor]
    encode: Callable[[Any, str], Text]
    text_widths: Callable[[Any], tuple[int, int | None]]
    multiple: Callable[[Any], int]
    largest: Callable[[Any], int | None] = _any_size
