"""Z-Image, full fine-tune by default: 4-D latents of 16 channels; its network turns the host's timesteps round."""

import functools
from pathlib import Path
from typing import Any

SCRIPT = "zimage_train"
CAPTION = 48
_SHRUNK: list[str] = []


def shrink_host() -> None:
    """Once musubi_tuner is on sys.path and before a script runs; doing it twice is harmless."""
    from musubi_tuner.zimage.zimage_model import ZImageTransformer2DModel

    if _SHRUNK:
        return
    _SHRUNK.append("done")
    original = ZImageTransformer2DModel.__init__
    tiny = {"dim": 64, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": CAPTION}

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **{**kwargs, **tiny, "axes_dims": [16, 8, 8]})

    ZImageTransformer2DModel.__init__ = init


def write(folder: Path, groups: list[list[str]], sizes: list[tuple[int, int]]) -> None:
    """FOLDER/z_image.safetensors and FOLDER/z_image/dataset_musubi.toml."""
    import torch
    from musubi_tuner.zimage.zimage_model import ZImageTransformer2DModel
    from safetensors.torch import save_file

    from tests.musubi.data import cache_module, paths, write_images

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = ZImageTransformer2DModel()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    save_file(model.state_dict(), folder / "z_image.safetensors")

    cache_io = cache_module()

    def cache(number: int, item: Any, caches: Path) -> None:
        paths(item, caches, "zi")
        random = torch.Generator().manual_seed(number)
        width, height = item.original_size
        latents = torch.randn(16, height // 8, width // 8, generator=random)
        latents[0] = number
        cache_io.save_latent_cache_z_image(item, latents)
        cache_io.save_text_encoder_output_cache_z_image(item, torch.randn(4, CAPTION, generator=random))

    write_images(folder / "z_image", groups, sizes, cache)


def arguments(world: Path) -> dict[str, Any]:
    return {
        "dit": world / "z_image.safetensors",
        "dataset_config": world / "z_image" / "dataset_musubi.toml",
        "timestep_sampling": "shift",
        "discrete_flow_shift": 2.0,
        "use_32bit_attention": True,
        "learning_rate": 1e-3,
    }
