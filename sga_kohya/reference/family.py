"""What the trainer must know of a family of diffusers models; the records are in families/, one file each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sga_kohya.equations.timesteps import token_mu
from sga_kohya.reference.text import Text


def _any_size(config: Any) -> int | None:
    return None


def line_mu(config: Any, tokens: int, steps: int | None = None) -> float:
    """mu_res of Eq. 31 by a scheduler's config: a line through two points, for any number of steps."""
    low = config.base_image_seq_len, config.base_shift
    return token_mu(tokens, low, (config.max_image_seq_len, config.max_shift))


@dataclass(frozen=True)
class Family:
    """How the pipelines of a family are trained.

    arch: "dit" if the network is the pipeline's `transformer`, "unet" if it is its `unet`.
    flow: whether it learns a velocity, from latents to noise; otherwise what its noise schedule says.
    blocks: classes of modules whose linear layers (attention and MLP) get an adapter.
    predict: (network, noisy (B, C, H, W), timesteps (B,) in 0-1000, text, pixels that a latent's side covers) ->
        prediction (B, C, H, W), a velocity positive towards noise. Packing, scale and sign of the family are its.
    encode: (pipeline, one caption) -> its text as the pipeline itself makes it; with a mask where captions differ in
        length.
    text_widths: (network's config) -> widths of the tokens and of the pooled embedding (None: not used).
    channels: (network's config) -> channels of the latents.
    multiple: (network's config) -> sides of latents must be multiples of this; of a transformer, those of a token.
    largest: (network's config) -> the longest side of latents that its positions reach, None for any.
    optional: text encoders and tokenizers of the pipeline that `encode` does without.
    sampling_mu: (scheduler's config, tokens, steps) -> mu of the noise levels that the pipeline samples at, where its
        scheduler shifts by resolution.
    since: the first version of diffusers that has all of this.
    """

    arch: str
    flow: bool
    blocks: tuple[str, ...]
    predict: Callable[[Any, Tensor, Tensor, Text, int], Tensor]
    encode: Callable[[Any, str], Text]
    text_widths: Callable[[Any], tuple[int, int | None]]
    channels: Callable[[Any], int]
    multiple: Callable[[Any], int]
    largest: Callable[[Any], int | None] = _any_size
    optional: tuple[str, ...] = ()
    sampling_mu: Callable[[Any, int, int], float] = line_mu
    since: str = "0.32"
