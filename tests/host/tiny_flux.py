"""A FLUX stack of a few hundred thousand parameters that the real sd-scripts loads, trains and saves on CPU.

`shrink_host` replaces sizes and loaders in the host's modules of this process; `write_models` then writes checkpoints
which the host's own loading code reads. The `*_args` functions give the settings of short runs on them.
"""

import dataclasses
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

WIDTH = 32  # of both text encoders, hence of the flow model's context and vector inputs
FLOW_SIZES = {
    "hidden_size": 64,
    "num_heads": 2,
    "depth": 1,
    "depth_single_blocks": 2,
    "axes_dim": [8, 12, 12],
    "context_in_dim": WIDTH,
    "vec_in_dim": WIDTH,
}
AE_SIZES = {"ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1}  # four levels keep the real 8-fold compression


def shrink_host() -> None:
    """Call once the checkout is on sys.path and before the script runs."""
    from library import flux_models, flux_utils, strategy_base

    for name, spec in flux_models.configs.items():
        flux_models.configs[name] = dataclasses.replace(
            spec,
            params=dataclasses.replace(spec.params, **FLOW_SIZES),
            ae_params=dataclasses.replace(spec.ae_params, **AE_SIZES),
        )
    flux_utils.load_clip_l = lambda path, dtype, device, *args, **kwargs: clip_l().to(device=device, dtype=dtype)
    flux_utils.load_t5xxl = lambda path, dtype, device, *args, **kwargs: t5xxl().to(device=device, dtype=dtype)

    def load_tokenizer(self, model_class, *args, **kwargs):
        return {CLIPTokenizer: clip_tokenizer, T5TokenizerFast: t5_tokenizer}[model_class]()

    # not through --tokenizer_cache_dir, which flux_train.py ignores
    strategy_base.TokenizeStrategy._load_tokenizer = load_tokenizer


def write_models(folder: Path) -> dict[str, Path]:
    """Write flux.safetensors and ae.safetensors. Needs `shrink_host` first."""
    from library import flux_models

    spec = flux_models.configs["dev"]
    folder.mkdir(parents=True, exist_ok=True)
    paths = model_paths(folder)
    # torch's own initialisation of Linear and Conv2d leaves no layer at zero, so that gradients flow everywhere
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(flux_models.Flux(spec.params).state_dict(), paths["flux"])
        save_file(flux_models.AutoEncoder(spec.ae_params).state_dict(), paths["ae"])
    return paths


def model_paths(folder: Path) -> dict[str, Path]:
    return {"flux": folder / "flux.safetensors", "ae": folder / "ae.safetensors"}


def clip_l() -> CLIPTextModel:
    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():  # the host's random state must not depend on this stand-in
        torch.manual_seed(1)
        return CLIPTextModel(config)


def t5xxl() -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(t5_tokenizer()),
        d_model=WIDTH,
        d_kv=WIDTH // 2,
        d_ff=2 * WIDTH,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return T5EncoderModel(config)


@cache
def clip_tokenizer() -> CLIPTokenizer:
    """Byte-pair encoding over printable ASCII with a handful of merges."""
    characters = [chr(code) for code in range(33, 127)]
    merges = [("m", "a"), ("m", "i"), ("c", "r"), ("ma", "cr"), ("mi", "cr"), ("macr", "o</w>"), ("micr", "o</w>")]
    tokens = characters + [f"{c}</w>" for c in characters] + [a + b for a, b in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        vocab_file, merges_file = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocab_file.write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
        merges_file.write_text("\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in merges)]))
        return CLIPTokenizer(str(vocab_file), str(merges_file), model_max_length=77)


@cache
def t5_tokenizer() -> T5TokenizerFast:
    """A unigram model over printable ASCII, with T5's special tokens and its final </s>."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["<pad>", "</s>", "<unk>"]
    pieces = [*special, "▁", *(chr(code) for code in range(33, 127)), "▁macro", "▁meso", "▁micro"]
    vocab = [(piece, 0.0 if piece in special else -1.0) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0, model_max_length=512)


def finetune_args(models: dict[str, Path], dataset: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Settings for flux_train.py. Gradients are not clipped, so that recorded ones are what backward made."""
    return {
        "pretrained_model_name_or_path": models["flux"],
        "ae": models["ae"],
        "clip_l": "tiny",
        "t5xxl": "tiny",
        "t5xxl_max_token_length": 32,
        "dataset_config": dataset,
        "output_dir": out,
        "output_name": "tiny",
        "save_model_as": "safetensors",
        "save_precision": "float",
        "mixed_precision": "no",
        "sdpa": True,
        "max_data_loader_n_workers": 0,
        "seed": 7,
        "max_train_steps": 4,
        "optimizer_type": "AdamW",
        "learning_rate": 1e-3,
        "max_grad_norm": 0.0,
        "guidance_scale": 1.0,
        "model_prediction_type": "raw",
        "timestep_sampling": "flux_shift",
        "discrete_flow_shift": 3.1582,
    } | changes


def lora_args(models: dict[str, Path], dataset: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Settings for flux_train_network.py with the host's own LoRA."""
    network = {"network_module": "networks.lora_flux", "network_dim": 4, "network_train_unet_only": True}
    return finetune_args(models, dataset, out, **network) | changes


def dora_args(models: dict[str, Path], dataset: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Settings for flux_train_network.py with the paper's adapter: LyCORIS LoRA with weight decomposition."""
    network = {
        "network_module": "lycoris.kohya",
        "network_alpha": 2,
        "network_args": ["algo=lora", "dora_wd=True", "preset=attn-mlp"],
    }
    return lora_args(models, dataset, out, **network) | changes
