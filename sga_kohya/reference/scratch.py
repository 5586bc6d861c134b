"""Small models from scratch: FLUX's transformer and Stable Diffusion's U-Net, on captions of hashed words."""

from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel, UNet2DConditionModel

from sga_kohya.errors import SgaError
from sga_kohya.reference.denoiser import Denoiser
from sga_kohya.reference.families import family_of
from sga_kohya.reference.latents import Codec
from sga_kohya.reference.levels import ddim
from sga_kohya.reference.stack import Stack
from sga_kohya.reference.text import WORDS_DIM, HashedWords

HEAD_DIM = 32


def build(arch: str, codec: Codec, width: int, depth: int, schedule: dict[str, Any]) -> Stack:
    """A small model from scratch. width: of its layers. depth: blocks, or resolution levels of a U-Net."""
    if width % HEAD_DIM:
        raise SgaError(f"--width {width}: use a multiple of {HEAD_DIM}")
    model: Any
    if arch == "dit":
        model = FluxTransformer2DModel(
            patch_size=1,
            in_channels=4 * codec.channels,
            num_layers=max(1, depth // 2),
            num_single_layers=max(1, depth - depth // 2),
            attention_head_dim=HEAD_DIM,
            num_attention_heads=width // HEAD_DIM,
            joint_attention_dim=WORDS_DIM,
            pooled_projection_dim=WORDS_DIM,
            axes_dims_rope=(8, 12, 12),
        )
        scheduler = FlowMatchEulerDiscreteScheduler()
        return Stack(Denoiser(model, family_of("FluxPipeline"), codec.factor), codec, HashedWords(), scheduler)
    model = UNet2DConditionModel(
        in_channels=codec.channels,
        out_channels=codec.channels,
        block_out_channels=[width] * depth,
        layers_per_block=1,
        down_block_types=["CrossAttnDownBlock2D"] * depth,
        up_block_types=["CrossAttnUpBlock2D"] * depth,
        cross_attention_dim=WORDS_DIM,
        attention_head_dim=width // HEAD_DIM,
        norm_num_groups=8,
    )
    scheduler = ddim({"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}, schedule)
    family = family_of("StableDiffusionPipeline")
    return Stack(Denoiser(model, family, codec.factor), codec, HashedWords(pooled_dim=None), scheduler)
