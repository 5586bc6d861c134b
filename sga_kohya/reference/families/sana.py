"""Sana: a flow on the few latents of a deep codec; captions follow an instruction to its language model."""

import inspect
from typing import Any

from torch import Tensor

from sga_kohya.reference.family import Family
from sga_kohya.reference.text import Text, unguided


def _predict(model: Any, noisy: Tensor, timesteps: Tensor, text: Text, pixels_per_latent: int) -> Tensor:
    return model(
        noisy,
        encoder_hidden_states=text.tokens,
        encoder_attention_mask=text.mask,
        timestep=timesteps * model.config.get("timestep_scale", 1.0),
    ).sample


def _encode(pipeline: Any, caption: str) -> Text:
    """The instruction is the default of the pipeline's own call."""
    instruction = inspect.signature(type(pipeline).__call__).parameters["complex_human_instruction"].default
    tokens, mask, *_ = unguided(pipeline, caption, complex_human_instruction=instruction)
    return Text(tokens, mask=mask)


FAMILY = Family(
    arch="dit",
    flow=True,
    blocks=("SanaTransformerBlock",),
    predict=_predict,
    encode=_encode,
    text_widths=lambda config: (config.caption_channels, None),
    channels=lambda config: config.in_channels,
    multiple=lambda config: config.patch_size,
)
