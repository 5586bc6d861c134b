"""Tiny stacks: every family of musubi-tuner at a size that trains in a moment, and what its cache scripts would write.

A stack is written as FOLDER/NAME.safetensors and FOLDER/NAME/dataset_musubi.toml. Channel 0 of a slice's latents is the
slice's number. Of a family that trains on videos the macro slices are clips, unless a job says which are.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

WIDTH = 32
"""Of everything that a text encoder would hand over."""
CLIP_SIZE = (128, 64)
_EXACT = ["enable_bucket = true", "bucket_no_upscale = true"]  # never for clips: they are cached as if it were false


@dataclasses.dataclass(frozen=True)
class Clips:
    """How a level's clips are cached. starts: of each excerpt that the host makes of one clip. batch: batch_size."""

    size: tuple[int, int] = CLIP_SIZE
    frames: int = 5
    starts: tuple[int, ...] = (0,)
    batch: int = 2

    def table(self) -> list[str]:
        lines = [f"resolution = {list(self.size)}", f"target_frames = [{self.frames}]", f"batch_size = {self.batch}"]
        return [*lines, 'frame_extraction = "chunk"'] if len(self.starts) > 1 else lines


EXCERPT = 100
"""What is added to a slice's number for each further excerpt."""


def make_small(owner: type, **sizes: Any) -> None:
    """Whatever a class is made with, it is made of these sizes. Doing it twice is harmless."""
    original: Callable = owner.__init__
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **{**kwargs, **sizes})

    owner.__init__ = init


def save(model: Any, file: Path, seed: int = 0, metadata: dict[str, str] | None = None) -> None:
    """With random weights."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, file, metadata)


class Stack:
    """One family. channels: of its latents, whose sides are `compression` times shorter than an image's."""

    script: str
    architecture: str
    channels = 16
    compression = 8
    frames = True
    videos = False
    own_transformers = False
    lora = ""
    settings: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return next(name for name, stack in STACKS.items() if stack is self)

    def shrink(self) -> None:
        """Once musubi_tuner is on sys.path and before a script runs; doing it twice is harmless."""
        raise NotImplementedError

    def model(self) -> Any:
        """Of the shrunken size, with any weights."""
        raise NotImplementedError

    def cache(self, io: ModuleType, item: Any, latents: Any, random: "Random") -> None:
        """Write an item's latents and text as the cache scripts do. io: see data.cache_module."""
        raise NotImplementedError

    def arguments(self, world: Path) -> dict[str, Any]:
        """Of its script, beside those that all have."""
        adapter = {"network_module": f"networks.{self.lora}", "network_dim": 4, "network_alpha": 4} if self.lora else {}
        data = world / self.name / "dataset_musubi.toml"
        return {"dit": world / f"{self.name}.safetensors", "dataset_config": data, **adapter, **self.settings}

    def write(
        self, folder: Path, groups: list[list[str]], sizes: list[tuple[int, int]], clips: dict[str, Clips] | None = None
    ) -> None:
        from .data import image_table, video_table, write_images, write_toml

        folder.mkdir(parents=True, exist_ok=True)
        self.write_models(folder)
        data, clips = folder / self.name, clips or ({"macro": Clips()} if self.videos else {})
        levels = write_images(data, groups, sizes, functools.partial(self.cache_item, clips))
        tables = [
            [*video_table(data, level), *clips[level].table()]
            if level in clips
            else [*image_table(data, level), *_EXACT]
            for level in levels
        ]
        write_toml(data / "dataset_musubi.toml", ["[general]", 'caption_extension = ".txt"', ""], tables)

    def write_models(self, folder: Path) -> None:
        save(self.model(), folder / f"{self.name}.safetensors")

    def cache_item(self, clips: dict[str, Clips], number: int, item: Any, caches: Path) -> None:
        """For data.write_images."""
        clip = clips.get(caches.name)
        if clip is None:
            self.cache_excerpt(number, item, caches, 1)
            return
        item.original_size = clip.size
        picture = caches.parents[1] / f"1_{caches.name}" / f"{item.item_key}.png"
        picture.rename(picture.with_suffix(".mp4"))  # training looks at its name alone
        for place, start in enumerate(clip.starts):
            name = self.place(start, clip.frames)
            self.cache_excerpt(number + place * EXCERPT, item, caches, (clip.frames - 1) // 4 + 1, name)

    def cache_excerpt(self, number: int, item: Any, caches: Path, frames: int, place: str = "") -> None:
        """frames: of its latents. place: of a clip's excerpt in its video."""
        from .data import cache_module, paths

        paths(item, caches, self.architecture, place)
        random = Random(number)
        sides = [side // self.compression for side in item.original_size[::-1]]
        latents = random(self.channels, *([frames] if self.frames else []), *sides)
        latents[0] = number
        self.cache(cache_module(), item, latents, random)

    def place(self, start: int, frames: int) -> str:
        """What the host adds to a clip's name: its place in the video."""
        return f"_{start:05}-{frames:03}"


class Random:
    """Tensors of normal random numbers, of one seed."""

    def __init__(self, seed: int):
        import torch

        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Any:
        import torch

        return torch.randn(*shape, generator=self.generator)


class Flux2(Stack):
    """flux_2_ae.safetensors is for the script that caches."""

    script, architecture, lora = "flux_2_train_network", "f2k4b", "lora_flux_2"
    channels, compression, frames = 128, 16, False
    settings = {
        **{"vae": "none", "text_encoder": "none", "model_version": "klein-base-4b"},
        "timestep_sampling": "flux2_shift",
    }

    def shrink(self) -> None:
        from musubi_tuner.flux_2 import flux2_models, flux2_utils

        make_small(flux2_models.AutoEncoderParams, ch=32, ch_mult=[1, 1, 1, 1], num_res_blocks=1)
        if flux2_utils.FLUX2_MODEL_INFO["klein-base-4b"].params.hidden_size == 64:
            return
        params = flux2_models.Klein4BParams(
            context_in_dim=WIDTH, hidden_size=64, num_heads=2, depth=1, depth_single_blocks=2, axes_dim=[8] * 4
        )
        for version in ("klein-base-4b", "klein-base-9b"):
            info = flux2_utils.FLUX2_MODEL_INFO[version]
            flux2_utils.FLUX2_MODEL_INFO[version] = dataclasses.replace(info, params=params)
        load = flux2_utils.load_flow_model
        # The host computes in bf16 whatever is asked for; a run with mixed_precision keeps that.
        flux2_utils.load_flow_model = lambda *args, **kwargs: _as_asked(load(*args, **kwargs))
        flux2_utils.load_text_embedder = lambda *_, **__: _TextEmbedder()

    def model(self) -> Any:
        from musubi_tuner.flux_2 import flux2_models, flux2_utils

        return flux2_models.Flux2(flux2_utils.FLUX2_MODEL_INFO["klein-base-4b"].params, "torch", False)

    def write_models(self, folder: Path) -> None:
        from musubi_tuner.flux_2 import flux2_models

        super().write_models(folder)
        save(flux2_models.AutoEncoder(flux2_models.AutoEncoderParams()), folder / "flux_2_ae.safetensors")

    def cache(self, io: ModuleType, item: Any, latents: Any, random: "Random") -> None:
        io.save_latent_cache_flux_2(item, latents, None, "flux_2_klein_4b")
        io.save_text_encoder_output_cache_flux_2(item, random(4, WIDTH), "flux_2_klein_4b")


def _exact_attention(qkv: list[Any], **_: Any) -> Any:
    """(B, L, heads, C) each, which the caller wants to be let go of."""
    import torch

    q, k, v = (part.transpose(1, 2) for part in qkv)
    qkv.clear()
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).contiguous()


def _as_asked(model: Any) -> Any:
    return model if {"--mixed_precision", "--config_file", "--save_path"} & set(sys.argv) else model.float()


class _TextEmbedder:
    """In the place of a language model, whose tokenizer would have to be fetched."""

    def __init__(self) -> None:
        import torch

        self.dtype, self.device = torch.bfloat16, torch.device("cpu")

    def to(self, *_: Any) -> Any:
        return self

    def __call__(self, prompts: list[str]) -> Any:
        import torch

        return torch.stack([Random(len(prompt))(4, WIDTH) for prompt in prompts]).to(self.dtype)


class FluxKontext(Stack):
    script, architecture, lora = "flux_kontext_train_network", "fk", "lora_flux"
    frames = False
    settings = {"timestep_sampling": "flux_shift", "mixed_precision": "bf16"}

    def shrink(self) -> None:
        from musubi_tuner.flux import flux_models

        sizes = {"vec_in_dim": WIDTH, "context_in_dim": WIDTH, "hidden_size": 64, "num_heads": 2}
        params = flux_models.configs_flux_dev_context.params
        vars(params).update(sizes, depth=1, depth_single_blocks=1, axes_dim=[8, 12, 12])

    def model(self) -> Any:
        from musubi_tuner.flux import flux_models

        return flux_models.Flux(flux_models.configs_flux_dev_context.params, "torch", False)

    def cache(self, io: ModuleType, item: Any, latents: Any, random: Random) -> None:
        io.save_latent_cache_flux_kontext(item, latents, random(*latents.shape))
        io.save_text_encoder_output_cache_flux_kontext(item, random(4, WIDTH), random(WIDTH))


class QwenImage(Stack):
    script, architecture, lora = "qwen_image_train_network", "qi", "lora_qwen_image"
    settings = {"timestep_sampling": "qwen_shift", "mixed_precision": "bf16"}

    def shrink(self) -> None:
        from musubi_tuner.qwen_image.qwen_image_model import QwenImageTransformer2DModel

        heads = {"attention_head_dim": 24, "num_attention_heads": 2, "axes_dims_rope": (8, 8, 8)}
        make_small(QwenImageTransformer2DModel, joint_attention_dim=WIDTH, num_layers=1, **heads)

    def model(self) -> Any:
        from musubi_tuner.qwen_image.qwen_image_model import QwenImageTransformer2DModel

        return QwenImageTransformer2DModel()

    def cache(self, io: ModuleType, item: Any, latents: Any, random: Random) -> None:
        io.save_latent_cache_qwen_image(item, latents, None)
        io.save_text_encoder_output_cache_qwen_image(item, random(4, WIDTH))


class ZImage(Stack):
    """Full fine-tune by default; its network turns the host's timesteps round."""

    script, architecture, frames = "zimage_train", "zi", False
    settings = {
        **{"timestep_sampling": "shift", "discrete_flow_shift": 2.0},
        **{"use_32bit_attention": True, "learning_rate": 1e-3},
    }

    def shrink(self) -> None:
        from musubi_tuner.zimage.zimage_model import ZImageTransformer2DModel

        sizes = {"dim": 64, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": WIDTH}
        make_small(ZImageTransformer2DModel, axes_dims=[16, 8, 8], **sizes)

    def model(self) -> Any:
        from musubi_tuner.zimage.zimage_model import ZImageTransformer2DModel

        return ZImageTransformer2DModel()

    def cache(self, io: ModuleType, item: Any, latents: Any, random: Random) -> None:
        io.save_latent_cache_z_image(item, latents)
        io.save_text_encoder_output_cache_z_image(item, random(4, WIDTH))


class Wan(Stack):
    """wan_high.safetensors is its second model, of high noise, and wan_vae.safetensors for the script that caches."""

    script, architecture, lora = "wan_train_network", "wan", "lora_wan"
    videos = True
    settings = {"task": "t2v-1.3B", "timestep_sampling": "shift", "discrete_flow_shift": 3.0}

    def shrink(self) -> None:
        import torch
        from musubi_tuner.wan.configs import WAN_CONFIGS
        from musubi_tuner.wan.modules import model, t5, vae

        # The host's attention rounds to bf16 whatever is asked for; in float32 Eq. 6 can be held to 1e-6.
        model.flash_attention = _exact_attention
        for task in ("t2v-1.3B", "t2v-14B"):
            WAN_CONFIGS[task].update(dim=64, ffn_dim=96, freq_dim=32, num_heads=2, num_layers=2, text_len=16)
        make_small(vae.WanVAE_, dim=8, num_res_blocks=1)
        t5.T5EncoderModel = lambda **_: lambda prompts, _: [torch.randn(4, 4096) for _ in prompts]

    def model(self) -> Any:
        from musubi_tuner.wan.configs import WAN_CONFIGS
        from musubi_tuner.wan.modules.model import WanModel

        names = ("dim", "ffn_dim", "freq_dim", "in_dim", "num_heads", "num_layers", "out_dim", "text_len", "eps")
        return WanModel(model_type="t2v", attn_mode="torch", **{name: WAN_CONFIGS["t2v-1.3B"][name] for name in names})

    def write_models(self, folder: Path) -> None:
        from musubi_tuner.wan.modules import vae

        super().write_models(folder)
        save(self.model(), folder / "wan_high.safetensors", seed=1)
        downsample = {"temperal_downsample": [False, True, True], "num_res_blocks": 1}
        save(vae.WanVAE_(dim=8, z_dim=self.channels, **downsample), folder / "wan_vae.safetensors")

    def cache(self, io: ModuleType, item: Any, latents: Any, random: Random) -> None:
        io.save_latent_cache_wan(item, latents, None, None, None)
        io.save_text_encoder_output_cache_wan(item, random(4, 4096))


class HunyuanVideo(Stack):
    script, architecture, lora = "hv_train_network", "hv", "lora"
    videos = True
    settings = {"timestep_sampling": "shift", "mixed_precision": "bf16"}

    def shrink(self) -> None:
        from musubi_tuner.hunyuan_model import models

        # For flash attention, and on CUDA whatever the device is.
        models.get_cu_seqlens = lambda mask, _: mask.new_zeros(2 * len(mask) + 1)
        make_small(
            models.HYVideoDiffusionTransformer,
            **{"text_states_dim": WIDTH, "text_states_dim_2": WIDTH, "hidden_size": 48, "heads_num": 2},
            **{"mm_double_blocks_depth": 1, "mm_single_blocks_depth": 1, "rope_dim_list": [8, 8, 8]},
        )

    def model(self) -> Any:
        from musubi_tuner.hunyuan_model import models

        return models.load_dit_model(WIDTH, WIDTH, self.channels, self.channels, {"attn_mode": "torch"})

    def cache(self, io: ModuleType, item: Any, latents: Any, random: Random) -> None:
        import torch

        io.save_latent_cache(item, latents)
        io.save_text_encoder_output_cache(item, random(4, WIDTH), torch.ones(4, dtype=torch.int64), True)
        io.save_text_encoder_output_cache(item, random(WIDTH), None, False)


class HunyuanVideo15(Stack):
    script, architecture, lora = "hv_1_5_train_network", "hv15", "lora_hv_1_5"
    channels, compression, videos = 32, 16, True
    settings = {"timestep_sampling": "shift", "dit_dtype": "float32"}

    def shrink(self) -> None:
        """Its sizes are numbers in the constructor's own text."""
        from musubi_tuner.hunyuan_video_1_5.hunyuan_video_1_5_models import HunyuanVideo_1_5_DiffusionTransformer as own

        sizes = {2048: 48, 16: 2, 54: 1, 3584: WIDTH, 1472: WIDTH, 1152: WIDTH, (16, 56, 56): (8, 8, 8)}
        code = own.__init__.__code__
        constants = tuple(sizes.get(value, value) if value.__hash__ else value for value in code.co_consts)
        own.__init__.__code__ = code.replace(co_consts=constants)

    def model(self) -> Any:
        from musubi_tuner.hunyuan_video_1_5.hunyuan_video_1_5_models import HunyuanVideo_1_5_DiffusionTransformer

        return HunyuanVideo_1_5_DiffusionTransformer()

    def cache(self, io: ModuleType, item: Any, latents: Any, random: Random) -> None:
        io.save_latent_cache_hunyuan_video_1_5(item, latents, None, None)
        io.save_text_encoder_output_cache_hunyuan_video_1_5(item, random(4, WIDTH), random(3, WIDTH))


class FramePack(Stack):
    """Its cache scripts cut a clip into sections, and give each the frames before it."""

    script, architecture, lora = "fpack_train_network", "fp", "lora_framepack"
    videos = True
    settings = {"timestep_sampling": "shift", "mixed_precision": "bf16", "split_attn": True}

    def shrink(self) -> None:
        from musubi_tuner.frame_pack.hunyuan_video_packed import HunyuanVideoTransformer3DModelPacked

        make_small(
            HunyuanVideoTransformer3DModelPacked,
            **{"num_attention_heads": 2, "attention_head_dim": 24, "rope_axes_dim": (8, 8, 8)},
            **{"num_layers": 1, "num_single_layers": 1, "num_refiner_layers": 1},
            **{"text_embed_dim": WIDTH, "pooled_projection_dim": WIDTH, "image_proj_dim": WIDTH},
        )

    def model(self) -> Any:
        from musubi_tuner.frame_pack.hunyuan_video_packed import HunyuanVideoTransformer3DModelPacked

        return HunyuanVideoTransformer3DModelPacked(attn_mode="torch")

    def place(self, start: int, frames: int) -> str:
        return f"{super().place(start, frames)}-0000"

    def cache(self, io: ModuleType, item: Any, latents: Any, random: Random) -> None:
        import torch

        frames, sides = latents.shape[1], latents.shape[2:]
        places = torch.arange(frames + 2 + 2 + 16)
        # of images the host itself fills in the frames of which there are no latents
        older = [random(16, count, *sides) if frames > 1 else None for count in (2, 16)]
        own, last, twice, four = places.split([frames, 2, 2, 16])
        before = random(16, 2, *sides)
        io.save_latent_cache_framepack(
            item, latents, own, before, last, older[0], twice, older[1], four, random(5, WIDTH)
        )
        mask = torch.ones(4, dtype=torch.int64)
        io.save_text_encoder_output_cache_framepack(item, random(4, WIDTH), mask, random(WIDTH))


class Kandinsky5(Stack):
    script, architecture, lora = "kandinsky5_train_network", "k5", "lora_kandinsky"
    videos = True
    settings = {"task": "k5-lite-t2v-5s-sd", "timestep_sampling": "shift", "mixed_precision": "bf16"}

    def shrink(self) -> None:
        from musubi_tuner.kandinsky5.configs import TASK_CONFIGS

        params = TASK_CONFIGS[self.settings["task"]].dit_params
        text = {"in_text_dim": WIDTH, "in_text_dim2": WIDTH, "num_text_blocks": 1}
        sizes = {"time_dim": 32, "model_dim": 48, "ff_dim": 64, "num_visual_blocks": 1, "axes_dims": (8, 8, 8)}
        vars(params).update(text, **sizes)

    def model(self) -> Any:
        from musubi_tuner.kandinsky5.configs import TASK_CONFIGS
        from musubi_tuner.kandinsky5.models.dit import get_dit

        return get_dit(vars(TASK_CONFIGS[self.settings["task"]].dit_params))

    def cache(self, io: ModuleType, item: Any, latents: Any, random: Random) -> None:
        import torch

        io.save_latent_cache_kandinsky5(item, latents)
        mask = torch.ones(4, dtype=torch.bool)
        io.save_text_encoder_output_cache_kandinsky5(item, random(4, WIDTH), random(WIDTH), mask)


class HiDreamO1(Stack):
    """Its latents are the pixels, in tokens of 32 by 32, and its network is a Qwen3-VL."""

    script, architecture, lora = "hidream_o1_train_network", "ho1", "lora_hidream_o1"
    compression, own_transformers = 32, True
    settings = {"timestep_sampling": "uniform", "mixed_precision": "bf16"}

    def shrink(self) -> None:
        from musubi_tuner.hidream_o1 import hidream_o1_utils
        from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig

        Qwen3VLConfig.from_pretrained = lambda *_, **__: self.config()
        hidream_o1_utils.load_processor = lambda *_, **__: SimpleNamespace()

    def config(self) -> Any:
        from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig

        size = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 64}
        rope = {"rope_type": "default", "mrope_section": [4, 4, 4], "mrope_interleaved": True}
        tokens = {name: 40 + place for place, name in enumerate(("image", "video", "vision_start", "vision_end"))}
        return Qwen3VLConfig(
            text_config={**size, "vocab_size": 64, "hidden_size": 48, "head_dim": 24, "rope_scaling": rope},
            vision_config={
                **{"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 48},
                **{"deepstack_visual_indexes": [0], "num_position_embeddings": 16},
            },
            **{f"{name}_token_id": token for name, token in tokens.items()},
        )

    def model(self) -> Any:
        """Without what published checkpoints leave out as well."""
        from musubi_tuner.hidream_o1.qwen3_vl_transformers import Qwen3VLForConditionalGeneration
        from torch import nn

        model = Qwen3VLForConditionalGeneration(self.config())
        model.lm_head, model.model.visual.deepstack_merger_list = nn.Identity(), nn.ModuleList()
        return model

    def cache_excerpt(self, number: int, item: Any, caches: Path, frames: int, place: str = "") -> None:
        from .data import cache_module, paths

        paths(item, caches, self.architecture)
        random = Random(number)
        tokens = random(*(side // self.compression for side in item.original_size[::-1]), 3 * self.compression**2)
        tokens[0] = number
        self.cache(cache_module(), item, tokens, random)

    def cache(self, io: ModuleType, item: Any, latents: Any, random: Random) -> None:
        import torch

        io.save_pixel_cache_hidream_o1(item, latents)
        io.save_text_encoder_output_cache_hidream_o1(item, torch.arange(4))


class Krea2(Stack):
    script, architecture, lora = "krea2_train_network", "kr2", "lora_krea2"
    own_transformers = True
    settings = {"timestep_sampling": "krea2_shift", "mixed_precision": "bf16"}

    def shrink(self) -> None:
        from musubi_tuner.krea2 import krea2_utils

        text = {"txtdim": WIDTH, "txtheads": 2, "txtkvheads": 2, "txtlayers": 2}
        sizes = {"features": 64, "tdim": 32, "heads": 2, "kvheads": 1, "multiplier": 2, "layers": 1}
        vars(krea2_utils.single_mmdit_large_wide).update(text, **sizes)

    def model(self) -> Any:
        from musubi_tuner.krea2 import krea2_utils

        return krea2_utils.SingleStreamDiT(krea2_utils.single_mmdit_large_wide, attn_mode="torch", split_attn=False)

    def cache(self, io: ModuleType, item: Any, latents: Any, random: Random) -> None:
        io.save_latent_cache_krea2(item, latents)
        io.save_text_encoder_output_cache_krea2(item, random(4, 2, WIDTH))


class Ideogram4(Stack):
    script, architecture, lora = "ideogram4_train_network", "i4", "lora_ideogram4"
    channels, compression, frames, own_transformers = 128, 16, False, True
    settings = {"timestep_sampling": "ideogram4_shift", "mixed_precision": "bf16"}

    def shrink(self) -> None:
        from musubi_tuner.ideogram4 import ideogram4_model

        sizes = {"emb_dim": 48, "num_layers": 1, "num_heads": 2, "intermediate_size": 64, "adanln_dim": 16}
        make_small(ideogram4_model.Ideogram4Config, llm_features_dim=WIDTH, mrope_section=(4, 4, 4), **sizes)

    def model(self) -> Any:
        from musubi_tuner.ideogram4 import ideogram4_model

        return ideogram4_model.Ideogram4Transformer(ideogram4_model.Ideogram4Config())

    def write_models(self, folder: Path) -> None:
        save(self.model(), folder / f"{self.name}.safetensors", metadata={"model_type": "ideogram4_cond"})

    def cache(self, io: ModuleType, item: Any, latents: Any, random: Random) -> None:
        io.save_latent_cache_ideogram4(item, latents)
        io.save_text_encoder_output_cache_ideogram4(item, random(4, WIDTH))


STACKS: dict[str, Stack] = {
    "flux_2": Flux2(),
    "flux_kontext": FluxKontext(),
    "qwen_image": QwenImage(),
    "z_image": ZImage(),
    "wan": Wan(),
    "hv": HunyuanVideo(),
    "hv_1_5": HunyuanVideo15(),
    "fpack": FramePack(),
    "kandinsky5": Kandinsky5(),
    "hidream_o1": HiDreamO1(),
    "krea2": Krea2(),
    "ideogram4": Ideogram4(),
}

_WHOLE = {"network_module": None, "network_dim": None, "network_alpha": None, "learning_rate": 1e-3}
_ADAPTER = {"network_dim": 4, "network_alpha": 4}
RUNS: dict[str, dict[str, Any]] = {
    **{stack.script: {"stack": name} for name, stack in STACKS.items()},
    "zimage_train_network": {"stack": "z_image", "network_module": "networks.lora_zimage", **_ADAPTER},
    "qwen_image_train": {"stack": "qwen_image", **_WHOLE},
    "hidream_o1_train": {"stack": "hidream_o1", **_WHOLE},
}
"""Every script there is a door for -> its stack, and what it needs beside the stack's own arguments."""
