"""An Anima stack of two million parameters, for anima_train_network.py and anima_train.py."""

from pathlib import Path
from typing import Any

from transformers import Qwen3Config, Qwen3Model

from .tiny_text import WIDTH, blank_file, common_args, randomised, seeded, t5_tokenizer


def shrink_host() -> None:
    """Call once the checkout is on sys.path and before the script runs."""
    from library import anima_models, anima_utils, qwen_image_autoencoder_kl

    original = anima_models.LLMAdapter

    def __init__(self, *args, **options):
        sizes = {"source_dim": WIDTH, "target_dim": WIDTH, "model_dim": WIDTH, "num_layers": 1, "num_heads": 2}
        original.__init__(self, **options | sizes)

    anima_models.LLMAdapter = type(original.__name__, (original,), {"__init__": __init__})
    sizes = {"model_channels": 64, "num_heads": 2, "num_blocks": 2, "crossattn_emb_channels": WIDTH}
    latents = {"in_channels": 16, "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "max_frames": 128}
    place = {"pos_emb_cls": "rope3d", "max_img_h": 512, "max_img_w": 512, "rope_enable_fps_modulation": False}
    adaln = {"use_adaln_lora": True, "adaln_lora_dim": 16, "use_llm_adapter": True}

    def load_model(*args, **options):
        return randomised(seeded(0, lambda: anima_models.Anima(**sizes, **latents, **place, **adaln)))

    def load_vae(*args, **options):
        make = qwen_image_autoencoder_kl.AutoencoderKLQwenImage
        return seeded(1, lambda: make(base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1))

    anima_utils.load_anima_model = load_model
    anima_utils.load_qwen3_tokenizer = lambda *args, **options: t5_tokenizer()
    anima_utils.load_t5_tokenizer = lambda *args, **options: t5_tokenizer()
    anima_utils.load_qwen3_text_encoder = lambda *args, **options: (qwen3(), t5_tokenizer())
    qwen_image_autoencoder_kl.load_vae = load_vae


def qwen3() -> Qwen3Model:
    config = Qwen3Config(
        vocab_size=len(t5_tokenizer()),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    return seeded(2, lambda: Qwen3Model(config)).requires_grad_(False)


def train_args(script: str, dataset: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Settings for one of the family's scripts."""
    network = {"network_module": "networks.lora_anima", "network_dim": 4, "network_train_unet_only": True}
    return (
        common_args(dataset, out)
        | {"pretrained_model_name_or_path": blank_file(out), "qwen3": "tiny", "vae": "tiny"}
        | {"qwen3_max_token_length": 32, "t5_max_token_length": 32, "cache_text_encoder_outputs": True}
        | (network if script == "anima_train_network.py" else {})
        | changes
    )
