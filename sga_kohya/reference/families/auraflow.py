"""AuraFlow: a flow whose time is in 0-1; positions are learned, so sizes end where they do."""

import math
from typing import Any

from torch import Tensor

from sga_kohya.reference.family import Family
from sga_kohya.reference.text import Text, unguided


def _predict(model: Any, noisy: Tensor, timesteps: Tensor, text: Text, pixels_per_latent: int) -> Tensor:
    return model(noisy, encoder_hidden_states=text.tokens, timestep=timesteps / 1000).sample


def _encode(pipeline: Any, caption: str) -> Text:
    """The pipeline sets tokens beyond the caption to zero itself; the network takes no mask."""
    return Text(unguided(pipeline, caption)[0])


FAMILY = Family(
    arch="dit",
    flow=True,
    blocks=("AuraFlowJointTransformerBlock", "AuraFlowSingleTransformerBlock"),
    predict=_predict,
    encode=_encode,
    text_widths=lambda config: (config.joint_attention_dim, None),
    channels=lambda config: config.in_channels,
    multiple=lambda config: config.patch_size,
    largest=lambda config: math.isqrt(config.pos_embed_max_size) * config.patch_size,
)
