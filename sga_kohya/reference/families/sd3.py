"""Stable Diffusion 3 and 3.5: a flow with pooled text; T5 may be absent from the folder."""

from typing import Any

from torch import Tensor

from sga_kohya.reference.family import Family
from sga_kohya.reference.text import Text, unguided


def _predict(model: Any, noisy: Tensor, timesteps: Tensor, text: Text, pixels_per_latent: int) -> Tensor:
    return model(noisy, encoder_hidden_states=text.tokens, pooled_projections=text.pooled, timestep=timesteps).sample


def _encode(pipeline: Any, caption: str) -> Text:
    tokens, _, pooled, _ = unguided(pipeline, caption, None, None)
    return Text(tokens, pooled)


FAMILY = Family(
    arch="dit",
    flow=True,
    blocks=("JointTransformerBlock",),
    predict=_predict,
    encode=_encode,
    text_widths=lambda config: (config.joint_attention_dim, config.pooled_projection_dim),
    channels=lambda config: config.in_channels,
    multiple=lambda config: config.patch_size,
    largest=lambda config: config.pos_embed_max_size * config.patch_size,
    optional=("text_encoder_3", "tokenizer_3"),
)
