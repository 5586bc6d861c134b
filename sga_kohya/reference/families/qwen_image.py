"""Qwen-Image: 2x2 latents a token, text as long as the caption, with a mask in a batch."""

from typing import Any

import torch
from torch import Tensor

from sga_kohya.reference.family import Family
from sga_kohya.reference.packing import from_tokens, to_tokens
from sga_kohya.reference.text import Text, encoder_device


def _predict(model: Any, noisy: Tensor, timesteps: Tensor, text: Text, pixels_per_latent: int) -> Tensor:
    height, width = noisy.shape[-2] // 2, noisy.shape[-1] // 2
    prediction = model(
        hidden_states=to_tokens(noisy, 2),
        encoder_hidden_states=text.tokens,
        encoder_hidden_states_mask=text.mask,
        timestep=timesteps / 1000,
        img_shapes=[[(1, height, width)]] * len(noisy),
        guidance=torch.ones_like(timesteps) if model.config.guidance_embeds else None,
    ).sample
    return from_tokens(prediction, height, width, 2)


def _encode(pipeline: Any, caption: str) -> Text:
    """Alone in its batch a caption has no mask."""
    tokens, mask = pipeline.encode_prompt(caption, device=encoder_device(pipeline))
    return Text(tokens, mask=tokens.new_ones(tokens.shape[:2]) if mask is None else mask.to(tokens))


FAMILY = Family(
    arch="dit",
    flow=True,
    blocks=("QwenImageTransformerBlock",),
    predict=_predict,
    encode=_encode,
    text_widths=lambda config: (config.joint_attention_dim, None),
    channels=lambda config: config.in_channels // 4,
    multiple=lambda config: 2,
    since="0.37",  # from there on its network heeds the mask
)
