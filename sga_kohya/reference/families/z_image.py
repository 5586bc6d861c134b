"""Z-Image: its time runs from noise to image and its velocity with it; images and captions come as lists."""

from typing import Any

import torch
from torch import Tensor

from sga_kohya.reference.family import Family
from sga_kohya.reference.text import Text, unguided


def _predict(model: Any, noisy: Tensor, timesteps: Tensor, text: Text, pixels_per_latent: int) -> Tensor:
    images = list(noisy.unsqueeze(2).unbind())  # one frame each
    masks = [slice(None)] * len(noisy) if text.mask is None else text.mask.bool()
    captions = [tokens[mask] for tokens, mask in zip(text.tokens, masks, strict=True)]
    found = model(images, 1 - timesteps / 1000, captions).sample
    return -torch.stack(found).squeeze(2)


def _encode(pipeline: Any, caption: str) -> Text:
    (tokens,), _ = unguided(pipeline, caption)
    return Text(tokens[None], mask=tokens.new_ones(1, len(tokens)))


def _largest(config: Any) -> int:
    """The first of its axes counts captions and images."""
    return min(config.axes_lens[1:]) * config.all_patch_size[0]


FAMILY = Family(
    arch="dit",
    flow=True,
    blocks=("ZImageTransformerBlock",),
    predict=_predict,
    encode=_encode,
    text_widths=lambda config: (config.cap_feat_dim, None),
    channels=lambda config: config.in_channels,
    multiple=lambda config: config.all_patch_size[0],
    largest=_largest,
    since="0.36",
)
