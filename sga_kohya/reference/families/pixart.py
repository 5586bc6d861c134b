"""PixArt-alpha and Sigma: epsilon, with an untrained variance beside it; text with a mask; size as a condition."""

from typing import Any

from torch import Tensor

from sga_kohya.reference.family import Family
from sga_kohya.reference.text import Text, unguided


def _predict(model: Any, noisy: Tensor, timesteps: Tensor, text: Text, pixels_per_latent: int) -> Tensor:
    channels = noisy.shape[1]
    found = model(
        noisy,
        encoder_hidden_states=text.tokens,
        encoder_attention_mask=text.mask,
        timestep=timesteps,
        added_cond_kwargs=_size(model, noisy, pixels_per_latent),
    ).sample
    return found[:, :channels]  # the learned variance follows: the pipeline does not use it, so it is left as it is


def _size(model: Any, noisy: Tensor, pixels_per_latent: int) -> dict[str, Tensor | None]:
    """Height and width in pixels, and their ratio: micro-conditions of alpha at 1024 pixels, none for the others."""
    if not model.use_additional_conditions:
        return {"resolution": None, "aspect_ratio": None}
    height, width = (side * pixels_per_latent for side in noisy.shape[-2:])
    resolution = noisy.new_tensor([[height, width]]).expand(len(noisy), -1)
    return {"resolution": resolution, "aspect_ratio": noisy.new_tensor([[height / width]]).expand(len(noisy), -1)}


def _encode(pipeline: Any, caption: str) -> Text:
    tokens, mask, *_ = unguided(pipeline, caption)
    return Text(tokens, mask=mask)


FAMILY = Family(
    arch="dit",
    flow=False,
    blocks=("BasicTransformerBlock",),
    predict=_predict,
    encode=_encode,
    text_widths=lambda config: (config.caption_channels or config.cross_attention_dim, None),
    channels=lambda config: config.in_channels,
    multiple=lambda config: config.patch_size,
)
