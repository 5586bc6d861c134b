"""A FLUX stack of a few hundred thousand parameters that the real sd-scripts loads, trains and saves on CPU.

`shrink_host` replaces sizes and loaders in the host's modules of this process; `write_models` then writes checkpoints
which the host's own loading code reads. The `*_args` functions give the settings of short runs on them.
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .tiny_text import WIDTH, clip, common_args, randomised, seeded, t5xxl, use_tokenizers

FLOW_SIZES = {
    "hidden_size": 64,
    "num_heads": 2,
    "depth": 1,
    "depth_single_blocks": 2,
    "axes_dim": [8, 12, 12],
    "context_in_dim": WIDTH,
    "vec_in_dim": WIDTH,
}
CHROMA_SIZES = {key: value for key, value in FLOW_SIZES.items() if key != "vec_in_dim"}
CHROMA_SIZES |= {"approximator_depth": 1, "approximator_hidden_size": 32}
AE_SIZES = {"ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1}  # four levels keep the real 8-fold compression


def shrink_host() -> None:
    """Call once the checkout is on sys.path and before the script runs."""
    from library import chroma_models, flux_models, flux_utils

    for name, spec in flux_models.configs.items():
        flux_models.configs[name] = dataclasses.replace(
            spec,
            params=dataclasses.replace(spec.params, **FLOW_SIZES),
            ae_params=dataclasses.replace(spec.ae_params, **AE_SIZES),
        )
    flux_utils.load_clip_l = lambda path, dtype, device, *args, **kwargs: clip().to(device=device, dtype=dtype)
    flux_utils.load_t5xxl = lambda path, dtype, device, *args, **kwargs: t5xxl().to(device=device, dtype=dtype)
    use_tokenizers()
    chroma = dataclasses.replace(chroma_models.chroma_params, **CHROMA_SIZES)
    load_flow_model = flux_utils.load_flow_model

    def load_model(*args, model_type="flux", **options):
        if model_type == "flux":
            return load_flow_model(*args, model_type=model_type, **options)
        return False, randomised(seeded(0, lambda: chroma_models.Chroma(chroma)))

    flux_utils.load_flow_model = load_model


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


def finetune_args(models: dict[str, Path], dataset: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Settings for flux_train.py."""
    return (
        common_args(dataset, out)
        | {
            "pretrained_model_name_or_path": models["flux"],
            "ae": models["ae"],
            "clip_l": "tiny",
            "t5xxl": "tiny",
            "t5xxl_max_token_length": 32,
            "sdpa": True,
            "guidance_scale": 1.0,
            "model_prediction_type": "raw",
            "timestep_sampling": "flux_shift",
            "discrete_flow_shift": 3.1582,
        }
        | changes
    )


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


def chroma_args(models: dict[str, Path], dataset: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Settings for flux_train_network.py on a Chroma, which is made in memory."""
    chroma = {"model_type": "chroma", "guidance_scale": 0.0, "apply_t5_attn_mask": True, "timestep_sampling": "sigmoid"}
    return lora_args(models, dataset, out, **chroma, clip_l=None) | changes
