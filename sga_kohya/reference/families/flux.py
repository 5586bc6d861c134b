"""FLUX.1: 2x2 latents a token, positions in three axes, pooled text, and embedded guidance where it was distilled."""

from typing import Any

import torch
from torch import Tensor

from sga_kohya.reference.family import Family
from sga_kohya.reference.packing import from_tokens, to_tokens
from sga_kohya.reference.text import Text, encoder_device


def _predict(model: Any, noisy: Tensor, timesteps: Tensor, text: Text, pixels_per_latent: int) -> Tensor:
    height, width = noisy.shape[-2] // 2, noisy.shape[-1] // 2
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    positions = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).view(-1, 3)
    prediction = model(
        hidden_states=to_tokens(noisy, 2),
        encoder_hidden_states=text.tokens,
        pooled_projections=text.pooled,
        timestep=timesteps / 1000,
        img_ids=positions.to(noisy),
        txt_ids=torch.zeros(text.tokens.shape[1], 3).to(noisy),
        guidance=torch.ones_like(timesteps) if model.config.guidance_embeds else None,
    ).sample
    return from_tokens(prediction, height, width, 2)


def _encode(pipeline: Any, caption: str) -> Text:
    return Text(*pipeline.encode_prompt(caption, None, device=encoder_device(pipeline))[:2])


FAMILY = Family(
    arch="dit",
    flow=True,
    blocks=("FluxTransformerBlock", "FluxSingleTransformerBlock"),
    predict=_predict,
    encode=_encode,
    text_widths=lambda config: (config.joint_attention_dim, config.pooled_projection_dim),
    channels=lambda config: config.in_channels // 4,
    multiple=lambda config: 2,
)
