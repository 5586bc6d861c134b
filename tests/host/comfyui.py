"""Which of our outputs ComfyUI loads, by its own loader: python tests/host/comfyui.py SD_SCRIPTS COMFYUI

Adapters are made by sd-scripts' and LyCORIS' own functions, with the settings of our presets, on U-Nets of full size
without memory (torch's meta device) and on a narrow FLUX, and handed to the lists of names of ComfyUI's models of the
same kind. Prints FOUND and, by kind, the number of tensors and those that ComfyUI would leave out; then what it reads
of textual inversion.
"""

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

sd_scripts, comfyui = sys.argv[1:3]
sys.argv = sys.argv[:1]
sys.path[:0] = [sd_scripts, comfyui]

import torch  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection  # noqa: E402

FLUX = {"in_channels": 64, "vec_in_dim": 768, "context_in_dim": 48, "hidden_size": 64, "mlp_ratio": 4.0, "num_heads": 2}
FLUX |= {"depth": 2, "depth_single_blocks": 2, "axes_dim": [8, 12, 12], "theta": 10000, "qkv_bias": True}
FLUX |= {"guidance_embed": True}
CONTROL = "no_such_layer.lora_up.weight"
SDXL = {
    **{"image_size": 32, "use_spatial_transformer": True, "legacy": False, "num_classes": "sequential"},
    **{"adm_in_channels": 2816, "in_channels": 4, "out_channels": 4, "model_channels": 320},
    **{"num_res_blocks": [2, 2, 2], "transformer_depth": [0, 0, 2, 2, 10, 10], "channel_mult": [1, 2, 4]},
    **{"transformer_depth_middle": 10, "use_linear_in_transformer": True, "context_dim": 2048},
    **{"num_head_channels": 64, "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10]},
    **{"use_temporal_attention": False, "use_temporal_resblock": False},
}
SD15 = SDXL | {
    **{"num_classes": None, "adm_in_channels": None, "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4]},
    **{"transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1, "context_dim": 768},
    **{"transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "use_linear_in_transformer": False},
    **{"num_heads": 8, "num_head_channels": -1},
}


def adapters():
    """Kind, its tensors' names with shapes, and the model in ComfyUI: module, configuration and text encoders."""
    from library import flux_models, original_unet, sdxl_original_unet
    from lycoris import kohya as lycoris
    from networks import lora, lora_flux

    flux, texts = flux_models.Flux(flux_models.FluxParams(**FLUX)), [clip_l(), None]
    yield "FLUX LoRA", network(lora_flux, texts, flux), flux_in_comfyui()
    dora = {"algo": "lora", "dora_wd": "True", "preset": "attn-mlp"}
    yield "FLUX DoRA", network(lycoris, [], flux, **dora), flux_in_comfyui()
    torch.set_default_device("meta")
    sdxl, texts = sdxl_original_unet.SdxlUNet2DConditionModel(), [clip_l(), clip_g()]
    full = {"preset": "full", "algo": "locon", "conv_dim": 16, "conv_alpha": 8}
    yield "SDXL LoCon", network(lycoris, texts, sdxl, **full), unet_in_comfyui(SDXL, texts)
    yield "SDXL LoRA", network(lora, texts, sdxl), unet_in_comfyui(SDXL, texts)
    sd15 = original_unet.UNet2DConditionModel(64, 8, 768)
    yield "SD 1.5 LoRA", network(lora, [clip_l()], sd15), unet_in_comfyui(SD15, [clip_l()])
    yield "SD 1.5 LoCon", network(lora, [clip_l()], sd15, conv_dim=16, conv_alpha=8), unet_in_comfyui(SD15, [clip_l()])


def network(module, texts, model, **options):
    made = module.create_network(1.0, 4, 2.0, None, texts, model, **options)
    made.apply_to(texts, model, bool(texts), True)
    return {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}


def clip_l():
    return CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12))


def clip_g():
    config = CLIPTextConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, projection_dim=1280)
    return CLIPTextModelWithProjection(config)


def flux_in_comfyui():
    import comfy.ops
    from comfy.ldm.flux.model import Flux

    config = FLUX | {"in_channels": 16, "out_channels": 16, "patch_size": 2}
    return Flux(**config, operations=comfy.ops.disable_weight_init), config, [clip_l()]


def unet_in_comfyui(config, texts):
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    given = {key: value for key, value in config.items() if value is not None}
    return UNetModel(**given, operations=comfy.ops.disable_weight_init), config, texts


def left_out(names, model, config, texts):
    """The names that ComfyUI's loader passes over."""
    import comfy.lora
    import comfy.lora_convert

    clips = dict(zip(("clip_l", "clip_g"), texts, strict=False))
    unet = Stand("diffusion_model.", model, config)
    text = SimpleNamespace(
        state_dict=lambda: {f"{at}.transformer.{name}": 0 for at, clip in clips.items() for name in clip.state_dict()}
    )
    known = comfy.lora.model_lora_keys_clip(text, comfy.lora.model_lora_keys_unet(unet, {}))
    tensors = {name: torch.zeros(shape, device="cpu") for name, shape in names.items()}
    tensors[CONTROL] = torch.zeros(1, device="cpu")
    heard = []
    comfy.lora.logging = SimpleNamespace(warning=heard.append)
    comfy.lora.load_lora(comfy.lora_convert.convert_lora(tensors), known)
    said = "lora key not loaded: "
    missing = [line.removeprefix(said) for line in heard if line.startswith(said)]
    missing.remove(CONTROL)  # raises where the loader's complaints are not heard
    return missing


def norms():
    """How far what ComfyUI makes of a weight by a DoRA of the output axis is from dividing by the norm of W, and of W +
    delta W, of which the second is what LyCORIS trains."""
    from comfy.weight_adapter.base import weight_decompose

    torch.set_default_device("cpu")
    torch.manual_seed(0)
    weight, change, scale = torch.randn(6, 4), torch.randn(6, 4), torch.rand(6, 1)
    made = weight_decompose(
        scale, weight.clone(), change.clone(), 1.0, 1.0, torch.float32, lambda difference: difference
    )
    return [
        float((made - scale * (weight + change) / by.norm(dim=1, keepdim=True)).abs().max())
        for by in (weight, weight + change)
    ]


def embeddings(folder):
    """Shapes that ComfyUI reads of files as the two textual inversion scripts write them, by text encoder."""
    from comfy.sd1_clip import load_embed
    from safetensors.torch import save_file

    torch.set_default_device("cpu")
    save_file({"emb_params": torch.ones(2, 768)}, folder / "sd.safetensors")
    save_file({"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}, folder / "sdxl.safetensors")
    wanted = [("sd", 768, None), ("sdxl", 768, "clip_l"), ("sdxl", 1280, "clip_g")]
    return [list(load_embed(name, str(folder), size, key).shape) for name, size, key in wanted]


class Stand:
    """As much of a model of ComfyUI as its loader asks for."""

    def __init__(self, prefix, model, config):
        self.names = {prefix + name: tensor for name, tensor in model.state_dict().items()}
        self.model_config = SimpleNamespace(unet_config=config)

    def state_dict(self):
        return self.names


if __name__ == "__main__":
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    found = {}
    for kind, names, there in adapters():
        found[kind] = len(names), left_out(names, *there)
    with tempfile.TemporaryDirectory() as folder:
        print("FOUND", json.dumps([found, embeddings(Path(folder)), norms()]))
