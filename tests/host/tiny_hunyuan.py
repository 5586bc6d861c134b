"""A HunyuanImage-2.1 stack of a few hundred thousand parameters, for hunyuan_image_train_network.py."""

import inspect
from pathlib import Path
from typing import Any

from transformers import Qwen2Config, Qwen2Model

from .tiny_text import blank_file, common_args, randomised, seeded, t5_tokenizer, t5xxl, use_tokenizers

HIDDEN = 128  # one head, whose rotary embedding has the real size
# The sizes are written into the constructors, so those are compiled again with others.
TRANSFORMER = {"3584": str(HIDDEN), "heads_num = 28": "heads_num = 1", "_depth = 20": "_depth = 1"}
TRANSFORMER |= {"_depth = 40": "_depth = 1", "2048": "32"}
AUTOENCODER = {"128, 256, 512, 512, 1024, 1024": "32, 32, 64, 64, 128, 128", "per_block = 2": "per_block = 1"}


def shrink_host() -> None:
    """Call once the checkout is on sys.path and before the script runs."""
    from library import hunyuan_image_models, hunyuan_image_text_encoder, hunyuan_image_vae

    compile_again(hunyuan_image_models, "HYImageDiffusionTransformer", TRANSFORMER)
    compile_again(hunyuan_image_vae, "HunyuanVAE2D", AUTOENCODER)

    def load_model(device, path, attn_mode, split_attn, *args, **options):
        make = hunyuan_image_models.HYImageDiffusionTransformer
        return randomised(seeded(0, lambda: make(attn_mode, split_attn)))

    def load_vae(*args, **options):
        vae = seeded(1, hunyuan_image_vae.HunyuanVAE2D)
        move = vae.to
        # The host wants float16, which takes a CPU a second an image.
        vae.to = lambda *where, **_: move(*where) if where else vae
        return vae

    hunyuan_image_models.load_hunyuan_image_model = load_model
    hunyuan_image_vae.load_vae = load_vae
    hunyuan_image_text_encoder.load_qwen2_5_vl = lambda *args, **options: (None, qwen())
    # No caption of ours quotes a text to be drawn, so ByT5 is only asked for its device.
    hunyuan_image_text_encoder.load_byt5 = lambda *args, **options: (None, t5xxl())
    use_tokenizers()


def compile_again(module: Any, name: str, changes: dict[str, str]) -> None:
    source = inspect.getsource(getattr(module, name))
    for old, new in changes.items():
        assert old in source, f"{name} no longer has {old}"
        source = source.replace(old, new)
    exec(compile(source, module.__file__, "exec"), vars(module))


def qwen() -> Qwen2Model:
    config = Qwen2Config(
        vocab_size=len(t5_tokenizer()),
        hidden_size=HIDDEN,
        intermediate_size=HIDDEN,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return seeded(2, lambda: Qwen2Model(config))


def train_args(script: str, dataset: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Settings for the family's script."""
    network = {"network_module": "networks.lora_hunyuan_image", "network_dim": 4, "network_train_unet_only": True}
    return (
        common_args(dataset, out)
        | {"pretrained_model_name_or_path": blank_file(out), "text_encoder": "tiny", "byt5": "tiny", "vae": "tiny"}
        | network
        | changes
    )
