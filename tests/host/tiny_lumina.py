"""A Lumina Image 2 stack of a few hundred thousand parameters, for lumina_train_network.py and lumina_train.py."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import Gemma2Config, Gemma2Model

from . import tiny_flux
from .tiny_text import WIDTH, blank_file, common_args, randomised, seeded, t5_tokenizer


def shrink_host() -> None:
    """Call once the checkout is on sys.path and before the script runs."""
    tiny_flux.shrink_host()  # for its autoencoder
    from library import flux_models, lumina_models, lumina_util, strategy_lumina

    heads = {"n_heads": 4, "n_kv_heads": 2, "axes_dims": [4, 6, 6], "axes_lens": [300, 512, 512]}
    sizes = {"in_channels": 16, "dim": 64, "n_layers": 1, "n_refiner_layers": 1, "qk_norm": True, **heads}

    def load_model(*args, **options):
        return randomised(seeded(0, lambda: lumina_models.NextDiT(cap_feat_dim=WIDTH, **sizes)))

    def load_ae(*args, **options):
        return seeded(1, lambda: flux_models.AutoEncoder(flux_models.configs["schnell"].ae_params))

    lumina_util.load_lumina_model = load_model
    lumina_util.load_ae = load_ae
    lumina_util.load_gemma2 = lambda *args, **options: gemma2()
    strategy_lumina.AutoTokenizer = SimpleNamespace(from_pretrained=lambda *args, **options: t5_tokenizer())


def gemma2() -> Gemma2Model:
    config = Gemma2Config(
        vocab_size=len(t5_tokenizer()),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        pad_token_id=0,
    )
    return seeded(2, lambda: Gemma2Model(config))


def train_args(script: str, dataset: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Settings for one of the family's scripts."""
    network = {"network_module": "networks.lora_lumina", "network_dim": 4, "network_train_unet_only": True}
    return (
        common_args(dataset, out)
        | {"pretrained_model_name_or_path": blank_file(out), "gemma2": "tiny", "ae": "tiny"}
        | {"gemma2_max_token_length": 32, "cache_text_encoder_outputs": True}
        | (network if script == "lumina_train_network.py" else {})
        | changes
    )
