"""FLUX.2: 4-D latents of 128 channels, a sixteenth of the image's sides."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

SCRIPT = "flux_2_train_network"
HIDDEN, CONTEXT = 64, 48
_SHRUNK: list[str] = []


def shrink_host() -> None:
    """Once musubi_tuner is on sys.path and before a script runs; doing it twice is harmless."""
    from musubi_tuner.flux_2 import flux2_models, flux2_utils

    if _SHRUNK:
        return
    _SHRUNK.append("done")
    info = flux2_utils.FLUX2_MODEL_INFO["klein-base-4b"]
    params = flux2_models.Klein4BParams(
        context_in_dim=CONTEXT, hidden_size=HIDDEN, num_heads=2, depth=1, depth_single_blocks=2, axes_dim=[8] * 4
    )
    flux2_utils.FLUX2_MODEL_INFO["klein-base-4b"] = dataclasses.replace(info, params=params)
    load = flux2_utils.load_flow_model
    # The host computes in bf16 whatever is asked for; a run with mixed_precision keeps that.
    flux2_utils.load_flow_model = lambda *args, **kwargs: _as_asked(load(*args, **kwargs))


def _as_asked(model: Any) -> Any:
    return model if "--mixed_precision" in sys.argv else model.float()


def write(folder: Path, groups: list[list[str]], sizes: list[tuple[int, int]]) -> None:
    """FOLDER/flux_2.safetensors and FOLDER/flux_2/dataset_musubi.toml. Channel 0 of a slice's latents is its number."""
    import torch
    from musubi_tuner.flux_2 import flux2_models, flux2_utils
    from safetensors.torch import save_file

    from tests.musubi.data import cache_module, paths, write_images

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    model = flux2_models.Flux2(flux2_utils.FLUX2_MODEL_INFO["klein-base-4b"].params, "torch", False)
    save_file(model.state_dict(), folder / "flux_2.safetensors")

    cache_io = cache_module()

    def cache(number: int, item: Any, caches: Path) -> None:
        paths(item, caches, "f2k4b")
        random = torch.Generator().manual_seed(number)
        width, height = item.original_size
        latents = torch.randn(128, height // 16, width // 16, generator=random)
        latents[0] = number
        cache_io.save_latent_cache_flux_2(item, latents, None, "flux_2_klein_4b")
        context = torch.randn(4, CONTEXT, generator=random)
        cache_io.save_text_encoder_output_cache_flux_2(item, context, "flux_2_klein_4b")

    write_images(folder / "flux_2", groups, sizes, cache)


def arguments(world: Path) -> dict[str, Any]:
    return {
        "dit": world / "flux_2.safetensors",
        "vae": "none",
        "text_encoder": "none",
        "model_version": "klein-base-4b",
        "dataset_config": world / "flux_2" / "dataset_musubi.toml",
        "network_module": "networks.lora_flux_2",
        "network_dim": 4,
        "network_alpha": 4,
        "timestep_sampling": "flux2_shift",
    }
