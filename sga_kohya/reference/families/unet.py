"""Stable Diffusion 1, 2 and XL: a U-Net; XL is also told the pooled text and the sizes."""

from typing import Any

import torch
from torch import Tensor

from sga_kohya.reference.family import Family
from sga_kohya.reference.text import Text, unguided


def _is_xl(config: Any) -> bool:
    return config.addition_embed_type == "text_time"


def _predict(model: Any, noisy: Tensor, timesteps: Tensor, text: Text, pixels_per_latent: int) -> Tensor:
    added = None
    if _is_xl(model.config):  # pooled text, original size, crop, target size
        height, width = (side * pixels_per_latent for side in noisy.shape[-2:])
        sizes = torch.tensor([height, width, 0, 0, height, width]).to(noisy).expand(len(noisy), -1)
        added = {"text_embeds": text.pooled, "time_ids": sizes}
    return model(noisy, timesteps, encoder_hidden_states=text.tokens, added_cond_kwargs=added).sample


def _encode(pipeline: Any, caption: str) -> Text:
    found = unguided(pipeline, caption, num_images_per_prompt=1)
    return Text(found[0], found[2] if _is_xl(pipeline.unet.config) else None)


def _text_widths(config: Any) -> tuple[int, int | None]:
    pooled = None
    if _is_xl(config):  # the pooled text shares an input with six embedded numbers
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    return config.cross_attention_dim, pooled


FAMILY = Family(
    arch="unet",
    flow=False,
    blocks=("Transformer2DModel",),
    predict=_predict,
    encode=_encode,
    text_widths=_text_widths,
    channels=lambda config: config.in_channels,
    multiple=lambda config: 2 ** (len(config.block_out_channels) - 1),
)
