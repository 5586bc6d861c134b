"""Text encoders and tokenizers of a few thousand parameters, and what else the tiny stacks share."""

import json
import tempfile
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

WIDTH = 32


def seeded(seed: int, make: Callable[[], Any]) -> Any:
    """What make() makes, with random numbers of its own: the host's random state must not depend on a stand-in."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def randomised(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The model with no layer at zero and none left uninitialised, so that gradients flow everywhere."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.05, generator=generator)
            else:
                parameter.fill_(1 if name.endswith(("weight", "scale")) else 0)
    return model


def blank_file(folder: Path) -> Path:
    """A checkpoint that holds nothing, for scripts that want to see a file; the stacks make their models in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "blank.safetensors"
    save_file({"blank": torch.zeros(1)}, path)
    return path


def use_tokenizers() -> None:
    """Not through --tokenizer_cache_dir, which flux_train.py ignores."""
    from library import strategy_base

    def load_tokenizer(self, model_class, *args, **kwargs):
        # A copy: textual inversion adds its word to each.
        return deepcopy(clip_tokenizer() if model_class is CLIPTokenizer else t5_tokenizer())

    strategy_base.TokenizeStrategy._load_tokenizer = load_tokenizer


def common_args(dataset: Path, out: Path) -> dict[str, Any]:
    """Settings of a short run. Gradients are not clipped, so that recorded ones are what backward made."""
    return {
        "dataset_config": dataset,
        "output_dir": out,
        "output_name": "tiny",
        "save_model_as": "safetensors",
        "save_precision": "float",
        "mixed_precision": "no",
        "max_data_loader_n_workers": 0,
        "seed": 7,
        "max_train_steps": 4,
        "optimizer_type": "AdamW",
        "learning_rate": 1e-3,
        "max_grad_norm": 0.0,
    }


def clip(layers: int = 2, kind: type = CLIPTextModel, width: int = WIDTH) -> Any:
    """layers: a host may ask for a certain hidden state. kind: the class to make, with or without projection."""
    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * WIDTH,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():  # the host's random state must not depend on this stand-in
        torch.manual_seed(1)
        return kind(config)


def t5xxl(width: int = WIDTH) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(t5_tokenizer()),
        d_model=width,
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
