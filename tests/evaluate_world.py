"""A small evaluation for tests: plans over images of plain colours and noise, and tiny random CLIP and ViT models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import toml
from PIL import Image

from sga_kohya.evaluate.plan.plan import Plan
from sga_kohya.evaluate.plan.plan_file import read_plan

PROMPTS = ["a red cat", "a blue dog", "a green house"]


def noise(seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """Smooth random colours, different for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size)


def write_plan(
    folder: Path,
    variants: tuple[str, ...] = ("one", "two", "three"),
    datasets: tuple[str, ...] = ("alpha", "beta"),
    picture: Callable[[str, str, int, int], Image.Image] | None = None,
    **settings: Any,
) -> Path:
    """plan.toml and its images; `picture(dataset, variant, prompt, seed)` makes each. settings: over the plan's."""
    count = 0
    for dataset in datasets:
        (folder / "references" / dataset).mkdir(parents=True, exist_ok=True)
        for number in range(2):
            count += 1
            noise(1000 + count).save(folder / "references" / dataset / f"r{number}.png")
        for variant in variants:
            target = folder / "made" / dataset / variant
            target.mkdir(parents=True, exist_ok=True)
            for prompt in range(len(PROMPTS)):
                for seed in (1, 2):
                    count += 1
                    image = picture(dataset, variant, prompt, seed) if picture else noise(count)
                    image.save(target / f"p{prompt + 1:02d}_s{seed}.png")
    plan: dict[str, Any] = {
        "seeds": [1, 2],
        "bootstrap": 200,
        "datasets": [{"name": name, "references": f"references/{name}", "prompts": PROMPTS} for name in datasets],
        "variants": [
            {"name": name, "images": f"made/{{dataset}}/{name}/p{{prompt:02d}}_s{{seed}}.png"} for name in variants
        ],
        "human": {"references": 2, "size": 64},
    }
    path = folder / "plan.toml"
    path.write_text(toml.dumps(plan | settings))
    return path


def make_plan(folder: Path, *args: Any, **settings: Any) -> Plan:
    return read_plan(write_plan(folder, *args, **settings))


def write_clip(folder: Path) -> Path:
    """A CLIP of a few thousand parameters with a real tokenizer and processor."""
    import json

    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "v.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "m.txt").write_text("#version: 0.2")
    tokenizer = CLIPTokenizer(str(folder / "v.json"), str(folder / "m.txt"), model_max_length=24)
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {"vocab_size": len(tokens), "max_position_embeddings": 24, "eos_token_id": len(tokens) - 1}
    config = CLIPConfig(
        text_config={**layers, **words, "bos_token_id": len(tokens) - 2, "pad_token_id": len(tokens) - 1},
        vision_config={**layers, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def write_vit(folder: Path, seed: int = 1) -> Path:
    import torch
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    torch.manual_seed(seed)
    ViTModel(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
