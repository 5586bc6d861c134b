"""An SDXL stack of a few million parameters, for sdxl_train_network.py and sdxl_train.py."""

from pathlib import Path
from typing import Any

from transformers import CLIPTextModel, CLIPTextModelWithProjection

from .tiny_sd15 import CHANNELS, NEW_WORD, vae
from .tiny_text import WIDTH, blank_file, clip, common_args, randomised, seeded, use_tokenizers

SIZE_EMBEDDING = 6 * 256  # of original size, crop and target size, beside the pooled text


def shrink_host() -> None:
    """Call once the checkout is on sys.path and before the script runs."""
    from library import sdxl_original_unet, sdxl_train_util

    sdxl_original_unet.MODEL_CHANNELS = CHANNELS
    sdxl_original_unet.TIME_EMBED_DIM = 4 * CHANNELS
    sdxl_original_unet.ADM_IN_CHANNELS = WIDTH + SIZE_EMBEDDING
    original = sdxl_original_unet.Transformer2DModel

    def __init__(self, *args, **options):
        original.__init__(self, *args, **options | {"num_transformer_layers": 1, "cross_attention_dim": 2 * WIDTH})

    # Of the same name, by which networks choose what they train.
    sdxl_original_unet.Transformer2DModel = type(original.__name__, (original,), {"__init__": __init__})

    def load_target_model(*args, **options):
        unet = seeded(0, sdxl_original_unet.SdxlUNet2DConditionModel)
        # The host reads the first text encoder's eleventh hidden state.
        encoders = clip(12, CLIPTextModel), clip(2, CLIPTextModelWithProjection)
        return True, *encoders, vae(), randomised(unet), None, None

    sdxl_train_util._load_target_model = load_target_model
    use_tokenizers()


def train_args(script: str, dataset: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Settings for one of the family's scripts."""
    network = {"network_module": "networks.lora", "network_dim": 4, "network_train_unet_only": True}
    own = {"sdxl_train_network.py": network, "sdxl_train_textual_inversion.py": NEW_WORD}
    # A new word changes what the text encoders say.
    cached = {} if script in own and own[script] is NEW_WORD else {"cache_text_encoder_outputs": True}
    return (
        common_args(dataset, out)
        | {"pretrained_model_name_or_path": blank_file(out), "sdpa": True, "no_half_vae": True}
        | cached
        | own.get(script, {})
        | changes
    )
