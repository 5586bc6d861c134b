"""A Stable Diffusion 1 stack of half a million parameters, for train_network.py, train_db.py and fine_tune.py."""

import json
from pathlib import Path
from typing import Any

import toml

from .tiny_text import WIDTH, blank_file, clip, common_args, randomised, seeded, use_tokenizers

CHANNELS = 32
NEW_WORD = {"token_string": "zork", "init_word": "macro", "seed": 8}
"""With this seed its few noise levels lie on both sides of Gamma."""


def shrink_host() -> None:
    """Call once the checkout is on sys.path and before the script runs."""
    from library import original_unet, train_util

    original_unet.BLOCK_OUT_CHANNELS = (CHANNELS,) * 4
    original_unet.TIMESTEP_INPUT_DIM = CHANNELS
    original_unet.TIME_EMBED_DIM = 4 * CHANNELS
    original_unet.NORM_GROUPS = original_unet.TRANSFORMER_NORM_NUM_GROUPS = 8
    original_unet.LAYERS_PER_BLOCK = 1
    original_unet.LAYERS_PER_BLOCK_UP = 2

    def load_target_model(args, *rest, **options):
        unet = seeded(0, lambda: original_unet.UNet2DConditionModel(64, 2, WIDTH))
        return clip(), vae(), randomised(unet), True

    owner = __import__(train_util.load_target_model.__module__, fromlist=["_"])
    owner._load_target_model = load_target_model
    use_tokenizers()


def vae() -> Any:
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return seeded(1, lambda: AutoencoderKL(block_out_channels=(CHANNELS,) * 4, latent_channels=4, **blocks))


def train_args(script: str, dataset: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Settings for one of the family's scripts."""
    if script == "fine_tune.py":
        dataset = with_metadata_files(dataset)
        changes = {"cache_latents": True} | changes  # without it v0.10.0 to v0.10.2 themselves end in an AttributeError
    network = {"network_module": "networks.lora", "network_dim": 4, "network_train_unet_only": True}
    own = {"train_network.py": network, "train_textual_inversion.py": NEW_WORD}
    return (
        common_args(dataset, out)
        | {"pretrained_model_name_or_path": blank_file(out), "sdpa": True}
        | own.get(script, {})
        | changes
    )


def with_metadata_files(dataset: Path) -> Path:
    """The same dataset as fine_tune.py reads it: captions and sizes in a JSON file for each folder."""
    content = toml.loads(dataset.read_text())
    for subset in content["datasets"][0]["subsets"]:
        folder = Path(subset["image_dir"])
        captions = {str(path): {"caption": path.with_suffix(".txt").read_text()} for path in folder.glob("*.png")}
        subset["metadata_file"] = str(folder.with_suffix(".json"))
        Path(subset["metadata_file"]).write_text(json.dumps(captions))
        subset.pop("caption_extension")
    path = dataset.with_name("finetune.toml")
    path.write_text(toml.dumps(content))
    return path
