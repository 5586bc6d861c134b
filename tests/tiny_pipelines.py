"""Real diffusers pipelines with tiny random weights; tokenizers are built on the spot, a letter a token.

TINY has those of this diffusers; what an older one lacks is imported only where it is built.
"""

import string

import diffusers
import torch
import transformers
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

WORDS = ["<pad>", "</s>", "<unk>", *string.ascii_lowercase]
T5 = {"vocab_size": len(WORDS), "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}


def tiny_vae(**units: float) -> AutoencoderKL:
    """4 channels, a quarter of the pixels' side. units: scaling_factor and shift_factor."""
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[8, 8, 8],
        norm_num_groups=4,
        latent_channels=4,
        **units,
    )


def tokenizer(length: int) -> PreTrainedTokenizerFast:
    letters = Tokenizer(BPE({word: number for number, word in enumerate(WORDS)}, [], unk_token="<unk>"))
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=letters, model_max_length=length, model_input_names=names, **special
    )


def clip(kind: type = CLIPTextModelWithProjection) -> CLIPTextModel | CLIPTextModelWithProjection:
    widths = {"hidden_size": 16, "intermediate_size": 16, "projection_dim": 16, "max_position_embeddings": 16}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 0, "eos_token_id": 1}
    return kind(CLIPTextConfig(vocab_size=len(WORDS), **widths, **layers))


def flux() -> FluxPipeline:
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    encoders = clip(CLIPTextModel), tokenizer(16), T5EncoderModel(T5Config(**T5)), tokenizer(64)
    return FluxPipeline(scheduler, tiny_vae(scaling_factor=0.3611, shift_factor=0.1159), *encoders, transformer)


def flux_without_text() -> FluxPipeline:
    """As a folder may be."""
    parts = flux().components
    return FluxPipeline(**{name: None if name.startswith(("text", "token")) else parts[name] for name in parts})


def unet(**more) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        block_out_channels=[16, 16],
        layers_per_block=1,
        down_block_types=["CrossAttnDownBlock2D"] * 2,
        up_block_types=["CrossAttnUpBlock2D"] * 2,
        attention_head_dim=2,
        norm_num_groups=4,
        **more,
    )


def sd() -> StableDiffusionPipeline:
    scheduler = DDIMScheduler(steps_offset=1, clip_sample=False)
    parts = tiny_vae(), clip(CLIPTextModel), tokenizer(16), unet(cross_attention_dim=16), scheduler
    return StableDiffusionPipeline(*parts, None, None, requires_safety_checker=False)


def sdxl() -> StableDiffusionXLPipeline:
    sizes = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    network = unet(cross_attention_dim=32, projection_class_embeddings_input_dim=40, **sizes)
    encoders = clip(CLIPTextModel), clip(), tokenizer(16), tokenizer(16)
    return StableDiffusionXLPipeline(tiny_vae(), *encoders, network, DDIMScheduler())


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
    vae = tiny_vae(scaling_factor=1.5305, shift_factor=0.0609)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    words = tokenizer(16)
    return StableDiffusion3Pipeline(transformer, scheduler, vae, clip(), words, clip(), words, None, None)


def language_model(kind: str, layers: int, **more):
    """kind: a class of transformers, such as Qwen3ForCausalLM. layers: as deep as its pipeline looks."""
    network = getattr(transformers, kind)
    return network(network.config_class(**language_config(layers), **more))


def language_config(layers: int) -> dict:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2}
    heads = {"num_key_value_heads": 1, "head_dim": 8, "vocab_size": len(WORDS)}
    return {**sizes, **heads, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}


def chat_tokenizer(length: int) -> PreTrainedTokenizerFast:
    """The caption between two words of a template, as a chat model has it."""
    words = tokenizer(length)
    words.chat_template = "{% for message in messages %}user {{ message['content'] }} end{% endfor %}"
    return words


def sana() -> SanaPipeline:
    """Its codec covers 8 pixels by a latent."""
    stages = {"encoder_block_types": "ResBlock", "decoder_block_types": "ResBlock", "attention_head_dim": 4}
    vae = AutoencoderDC(
        latent_channels=8,
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        encoder_layers_per_block=(1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        encoder_qkv_multiscales=((), (), (), ()),
        decoder_qkv_multiscales=((), (), (), ()),
        scaling_factor=0.41407,
        **stages,
    )
    transformer = SanaTransformer2DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
    )
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return SanaPipeline(tokenizer(300), language_model("Gemma2Model", 1), vae, transformer, scheduler)


def flux2_parts(**more) -> dict:
    """The network, codec and scheduler of both FLUX.2."""
    vae = diffusers.AutoencoderKLFlux2(
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[8, 8, 8],
        norm_num_groups=4,
        latent_channels=4,
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,  # of three layers of its text encoder
        axes_dims_rope=(4, 4, 4, 4),
        **more,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return {"vae": vae, "transformer": transformer, "scheduler": scheduler}


def flux2() -> DiffusionPipeline:
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Mistral3Config(
        text_config={"model_type": "mistral", **language_config(31)},
        vision_config={"model_type": "pixtral", "image_size": 32, "patch_size": 8, **vision},
        image_token_index=len(WORDS),
    )
    config.text_config.vocab_size += 3
    words = tokenizer(512)
    words.add_special_tokens({"additional_special_tokens": ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]})
    template = "{% for message in messages %}{{ message['content'][0]['text'] }}{% endfor %}"
    reader = transformers.PixtralProcessor(transformers.PixtralImageProcessor(), words, chat_template=template)
    encoder = transformers.Mistral3ForConditionalGeneration(config)
    return diffusers.Flux2Pipeline(text_encoder=encoder, tokenizer=reader, **flux2_parts())


def flux2_klein() -> DiffusionPipeline:
    encoder = language_model("Qwen3ForCausalLM", 28)
    parts = flux2_parts(guidance_embeds=False)
    return diffusers.Flux2KleinPipeline(text_encoder=encoder, tokenizer=chat_tokenizer(512), **parts)


def qwen_image() -> DiffusionPipeline:
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[-0.7, 0.3, 0.1, 1.5],
        latents_std=[2.8, 1.4, 2.3, 1.1],
    )
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
    )
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**language_config(1), "rope_scaling": {"type": "default", "mrope_section": [1, 1, 2]}},
        vision_config=vision,
        vision_start_token_id=len(WORDS),  # an older transformers looks for them among the words
        image_token_id=len(WORDS) + 1,
        video_token_id=len(WORDS) + 2,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(  # as the published one
        use_dynamic_shifting=True, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
    )
    encoder = transformers.Qwen2_5_VLForConditionalGeneration(config)
    return diffusers.QwenImagePipeline(scheduler, vae, encoder, tokenizer(1100), transformer)


def z_image() -> DiffusionPipeline:
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 6, 6],
        axes_lens=[1024, 64, 64],
    )
    for token in (transformer.x_pad_token, transformer.cap_pad_token):
        torch.nn.init.normal_(token)  # before 0.38 they are whatever lies in memory
    vae = tiny_vae(scaling_factor=0.3611, shift_factor=0.1159)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    encoder = language_model("Qwen3Model", 2)
    return diffusers.ZImagePipeline(scheduler, vae, encoder, chat_tokenizer(512), transformer)


_NEWER = {
    "Flux2Pipeline": ("flux2", flux2),
    "Flux2KleinPipeline": ("flux2-klein", flux2_klein),
    "QwenImagePipeline": ("qwen-image", qwen_image),
    "ZImagePipeline": ("z-image", z_image),
}
TINY = {
    "flux": flux,
    "sd": sd,
    "sdxl": sdxl,
    "pixart": pixart,
    "pixart-512": pixart_512,
    "pixart-sigma": pixart_sigma,
    "auraflow": auraflow,
    "sd3": sd3,
    "sana": sana,
    **dict(found for pipeline, found in _NEWER.items() if hasattr(diffusers, pipeline)),
}
