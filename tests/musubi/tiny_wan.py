"""Wan: 5-D latents of 16 channels, an eighth of the sides and a quarter of the frames. Macro slices are clips here."""

from pathlib import Path
from typing import Any

SCRIPT = "wan_train_network"
CLIP = "macro"
FRAMES, CLIP_SIZE = 5, (128, 64)


def shrink_host() -> None:
    """Once musubi_tuner is on sys.path and before a script runs; doing it twice is harmless."""
    from musubi_tuner.wan.configs import WAN_CONFIGS

    WAN_CONFIGS["t2v-1.3B"].update(dim=64, ffn_dim=96, freq_dim=32, num_heads=2, num_layers=2, text_len=16)


def write(folder: Path, groups: list[list[str]], sizes: list[tuple[int, int]]) -> None:
    """FOLDER/wan.safetensors, FOLDER/wan_high.safetensors and FOLDER/wan/dataset_musubi.toml."""
    import torch
    from musubi_tuner.wan.configs import WAN_CONFIGS
    from musubi_tuner.wan.modules.model import WanModel
    from safetensors.torch import save_file

    from tests.musubi.data import cache_module, image_table, paths, write_images, write_toml

    folder.mkdir(parents=True, exist_ok=True)
    config = WAN_CONFIGS["t2v-1.3B"]
    names = ("dim", "ffn_dim", "freq_dim", "in_dim", "num_heads", "num_layers", "out_dim", "text_len", "eps")
    for seed, name in enumerate(("wan", "wan_high")):
        torch.manual_seed(seed)
        model = WanModel(model_type="t2v", attn_mode="torch", **{name: config[name] for name in names})
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        save_file(model.state_dict(), folder / f"{name}.safetensors")

    cache_io = cache_module()

    def cache(number: int, item: Any, caches: Path) -> None:
        clip = caches.name == CLIP
        if clip:
            item.original_size = CLIP_SIZE
            picture = caches.parents[1] / f"1_{CLIP}" / f"{item.item_key}.png"
            picture.rename(picture.with_suffix(".mp4"))  # training looks at its name alone
        paths(item, caches, "wan", f"_00000-{FRAMES:03}" if clip else "")
        random = torch.Generator().manual_seed(number)
        width, height = item.original_size
        frames = (FRAMES - 1) // 4 + 1 if clip else 1
        latents = torch.randn(16, frames, height // 8, width // 8, generator=random)
        latents[0] = number
        cache_io.save_latent_cache_wan(item, latents, None, None, None)
        cache_io.save_text_encoder_output_cache_wan(item, torch.randn(4, 4096, generator=random))

    data = folder / "wan"
    write_images(data, groups, sizes, cache)
    exact = ["enable_bucket = true", "bucket_no_upscale = true"]  # never for clips: they are cached as if it were false
    images = [[*image_table(data, level), *exact] for level in ("meso", "micro")]
    clips = [
        *(f'video_directory = "{data}/1_{CLIP}"', f'cache_directory = "{data}/cache/{CLIP}"'),
        *(f"resolution = {list(CLIP_SIZE)}", f"target_frames = [{FRAMES}]", "batch_size = 2"),
    ]
    write_toml(data / "dataset_musubi.toml", ["[general]", 'caption_extension = ".txt"', ""], [clips, *images])


def arguments(world: Path) -> dict[str, Any]:
    return {
        "task": "t2v-1.3B",
        "dit": world / "wan.safetensors",
        "dataset_config": world / "wan" / "dataset_musubi.toml",
        "network_module": "networks.lora_wan",
        "network_dim": 4,
        "network_alpha": 4,
        "timestep_sampling": "shift",
        "discrete_flow_shift": 3.0,
    }
