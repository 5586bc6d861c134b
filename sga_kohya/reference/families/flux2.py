"""FLUX.2 dev and klein: a token for each latent pixel of its own codec, positions in four axes, text without a mask."""

from typing import Any

import torch
from torch import Tensor

from sga_kohya.reference.family import Family
from sga_kohya.reference.packing import from_tokens, to_tokens
from sga_kohya.reference.text import Text, encoder_device


def _predict(model: Any, noisy: Tensor, timesteps: Tensor, text: Text, pixels_per_latent: int) -> Tensor:
    height, width = noisy.shape[-2:]
    prediction = model(
        hidden_states=to_tokens(noisy, 1),
        encoder_hidden_states=text.tokens,
        timestep=timesteps / 1000,
        img_ids=_positions(rows=height, columns=width).to(noisy.device),
        txt_ids=_positions(words=text.tokens.shape[1]).to(noisy.device),
        guidance=torch.ones_like(timesteps) if model.config.guidance_embeds else None,
    ).sample
    return from_tokens(prediction, height, width, 1)


def _positions(rows: int = 1, columns: int = 1, words: int = 1) -> Tensor:
    """(rows * columns * words, 4): image, row, column, word."""
    return torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns), torch.arange(words))


def _encode(pipeline: Any, caption: str) -> Text:
    """Always as long, and the network attends to what fills it up, as it was trained."""
    return Text(pipeline.encode_prompt(caption, device=encoder_device(pipeline))[0])


def _sampling_mu(config: Any, tokens: int, steps: int) -> float:
    """Its line is FLUX.1's for 200 steps and higher for fewer, whatever the scheduler's config says."""
    from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

    return compute_empirical_mu(tokens, steps)


FAMILY = Family(
    arch="dit",
    flow=True,
    blocks=("Flux2TransformerBlock", "Flux2SingleTransformerBlock"),
    predict=_predict,
    encode=_encode,
    text_widths=lambda config: (config.joint_attention_dim, None),
    channels=lambda config: config.in_channels,
    multiple=lambda config: 1,
    sampling_mu=_sampling_mu,
    since="0.37",
)
