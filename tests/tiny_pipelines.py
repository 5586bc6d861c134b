"""Real diffusers pipelines with tiny random weights; tokenizers are built on the spot, a letter a token."""

import string

from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

WORDS = ["<pad>", "</s>", "<unk>", *string.ascii_lowercase]
T5 = {"vocab_size": len(WORDS), "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}


def tiny_vae() -> AutoencoderKL:
    """4 channels, a quarter of the pixels' side."""
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[8, 8, 8],
        norm_num_groups=4,
        latent_channels=4,
    )


def tokenizer(length: int) -> PreTrainedTokenizerFast:
    letters = Tokenizer(BPE({word: number for number, word in enumerate(WORDS)}, [], unk_token="<unk>"))
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=letters, model_max_length=length, model_input_names=names, **special
    )


def clip() -> CLIPTextModelWithProjection:
    widths = {"hidden_size": 16, "intermediate_size": 16, "projection_dim": 16, "max_position_embeddings": 16}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 0, "eos_token_id": 1}
    return CLIPTextModelWithProjection(CLIPTextConfig(vocab_size=len(WORDS), **widths, **layers))


def pixart(sample_size: int = 128) -> PixArtAlphaPipeline:
    """sample_size: 128 for the models that are told the size, in latents."""
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=12,  # a third of the embedding of sizes must be whole
        num_layers=2,
        cross_attention_dim=24,
        caption_channels=16,
        sample_size=sample_size,
    )
    scheduler = DPMSolverMultistepScheduler()
    return PixArtAlphaPipeline(tokenizer(120), T5EncoderModel(T5Config(**T5)), tiny_vae(), transformer, scheduler)


def pixart_512() -> PixArtAlphaPipeline:
    return pixart(sample_size=64)


def pixart_sigma() -> PixArtSigmaPipeline:
    """The same parts; the pipeline reads longer captions."""
    parts = pixart_512().components
    return PixArtSigmaPipeline(**{**parts, "tokenizer": tokenizer(300)})


def auraflow(side: int = 64) -> AuraFlowPipeline:
    """side: of the latents that its positions reach."""
    transformer = AuraFlowTransformer2DModel(
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pos_embed_max_size=(side // 2) ** 2,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.73)
    return AuraFlowPipeline(tokenizer(256), UMT5EncoderModel(UMT5Config(**T5)), tiny_vae(), transformer, scheduler)


def sd3(side: int = 64) -> StableDiffusion3Pipeline:
    """With T5 absent, as many folders have it. side: of the latents that its positions reach."""
    transformer = SD3Transformer2DModel(
        sample_size=side,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=side // 2,
    )
    vae, scheduler = tiny_vae(), FlowMatchEulerDiscreteScheduler(shift=3.0)
    vae.register_to_config(scaling_factor=1.5305, shift_factor=0.0609)
    words = tokenizer(16)
    return StableDiffusion3Pipeline(transformer, scheduler, vae, clip(), words, clip(), words, None, None)


TINY = {"pixart": pixart, "pixart-512": pixart_512, "pixart-sigma": pixart_sigma, "auraflow": auraflow, "sd3": sd3}
