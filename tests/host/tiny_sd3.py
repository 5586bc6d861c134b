"""An SD3.5 stack of two million parameters, for sd3_train_network.py and sd3_train.py."""

from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTextModelWithProjection

from .tiny_text import WIDTH, blank_file, clip, common_args, randomised, seeded, t5xxl, use_tokenizers

TEXT_WIDTH = 4096  # to which the host pads both CLIPs' states before it joins T5's
AE_SIZES = {"ch": 32, "ch_mult": (1, 1, 1, 1), "num_res_blocks": 1}


def shrink_host() -> None:
    """Call once the checkout is on sys.path and before the script runs."""
    from library import safetensors_utils, sd3_models, sd3_utils

    params = sd3_models.SD3Params(
        patch_size=2,
        depth=2,
        num_patches=32 * 32,
        pos_embed_max_size=32,
        adm_in_channels=2 * WIDTH,
        qk_norm="rms",
        x_block_self_attn_layers=[0],
        context_embedder_in_features=TEXT_WIDTH,
        context_embedder_out_features=2 * 64,
        model_type="5-medium",
    )
    ae = {"encoder": sd3_models.VAEEncoder, "decoder": sd3_models.VAEDecoder}

    def load_vae(*args, **options):
        vae = sd3_models.SDVAE.__new__(sd3_models.SDVAE)
        super(sd3_models.SDVAE, vae).__init__()
        for name, kind in ae.items():
            setattr(vae, name, seeded(1, lambda kind=kind: kind(**AE_SIZES)))
        return vae

    def load_mmdit(*args, **options):
        model = randomised(seeded(0, lambda: sd3_models.create_sd3_mmdit(params)))
        model.pos_embed.normal_(0, 0.02, generator=torch.Generator().manual_seed(0))  # left empty for a checkpoint
        return model

    safetensors_utils.load_safetensors = lambda *args, **options: {}
    sd3_utils.load_mmdit = load_mmdit
    sd3_utils.load_clip_l = lambda *args, **options: clip(kind=CLIPTextModelWithProjection)
    sd3_utils.load_clip_g = lambda *args, **options: clip(kind=CLIPTextModelWithProjection)
    sd3_utils.load_t5xxl = lambda *args, **options: t5xxl(TEXT_WIDTH)
    sd3_utils.load_vae = load_vae
    use_tokenizers()


def train_args(script: str, dataset: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Settings for one of the family's scripts."""
    network = {"network_module": "networks.lora_sd3", "network_dim": 4, "network_train_unet_only": True}
    return (
        common_args(dataset, out)
        | {"pretrained_model_name_or_path": blank_file(out), "t5xxl_max_token_length": 32}
        | {"cache_text_encoder_outputs": True}
        | (network if script == "sd3_train_network.py" else {})
        | changes
    )
