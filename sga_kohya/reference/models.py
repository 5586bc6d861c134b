"""The network and its parts: built small from scratch, or a LyCORIS adapter on a local diffusers folder."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    UNet2DConditionModel,
)
from lycoris import LycorisNetwork
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sga_kohya.errors import SgaError
from sga_kohya.kit.cli import one_line
from sga_kohya.kit.files import whole_file
from sga_kohya.kit.hints import closest
from sga_kohya.reference.dora import compute_beside_the_weight
from sga_kohya.reference.families import FAMILIES, family_of, trained_as
from sga_kohya.reference.family import Family, line_mu
from sga_kohya.reference.folders import has_vae, need_diffusers, read_part, read_pipeline
from sga_kohya.reference.latents import Codec, PooledPixels, VaeCodec, codec_of, load_vae
from sga_kohya.reference.options import RunOptions
from sga_kohya.reference.precision import autocast, weight_dtype
from sga_kohya.reference.scheduler import PathScheduler
from sga_kohya.reference.text import WORDS_DIM, HashedWords, PipelineText, Text, TextEncoder

HEAD_DIM = 32

logger = logging.getLogger(__name__)


class Denoiser(nn.Module):
    """The trained network: latents (B, C, H, W), timesteps (B,) in 0-1000 and text in, prediction (B, C, H, W) out.

    dtype: what it computes in, under autocast unless float32; what goes in and comes out is float32.
    """

    FILE = {True: "adapter.safetensors", False: "diffusion_pytorch_model.safetensors"}

    def __init__(self, model: Any, family: Family, pixels_per_latent: int, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.model, self.family, self.dtype = model, family, dtype
        self.adapter: LycorisNetwork | None = None
        self.pixels_per_latent = pixels_per_latent

    def add_adapter(self, dim: int, alpha: float) -> None:
        """Freeze the model and put a DoRA of that rank on its attention and MLP layers."""
        self.model.requires_grad_(False)
        LycorisNetwork.apply_preset(
            {"target_module": list(self.family.blocks), "target_name": [], "enable_conv": False}
        )
        self.adapter = LycorisNetwork(
            self.model, lora_dim=dim, alpha=alpha, network_module="lora", weight_decompose=True, warn_on_unmatched=False
        )
        for layer in self.adapter.loras:
            compute_beside_the_weight(layer)
        self.adapter.apply_to()

    def forward(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        tokens: Tensor,
        pooled: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        text = Text(tokens, pooled, mask)
        with autocast(noisy.device, self.dtype):
            return self.family.predict(self.model, noisy, timesteps, text, self.pixels_per_latent).float()

    def save(self, folder: Path, metadata: dict[str, str]) -> None:
        """Write what is trained: the adapter, or the model as its `from_pretrained` reads it."""
        trained = self.adapter or self.model
        if self.adapter is None:
            self.model.save_config(folder)
        weights = {name: value.detach().cpu().contiguous() for name, value in trained.state_dict().items()}
        file = folder / self.FILE[self.adapter is not None]
        with whole_file(file) as part:
            save_file(weights, part, {"format": "pt", **metadata})

    def save_for_diffusers(self, folder: Path, metadata: dict[str, str]) -> None:
        """The adapter as `load_lora_weights` of the family's pipeline reads it; nothing for a model without one."""
        if self.adapter is None:
            return
        with whole_file(folder / "pytorch_lora_weights.safetensors") as part:
            save_file(self._peft_weights(self.adapter), part, {"format": "pt", **metadata})

    def _peft_weights(self, adapter: LycorisNetwork) -> dict[str, Tensor]:
        """PEFT's names. Without its alpha the scale is 1, so ours is multiplied into B."""
        names = {id(module): name for name, module in self.model.named_modules()}
        part = "transformer" if self.family.arch == "dit" else "unet"
        weights = {}
        for layer in adapter.loras:
            name = f"{part}.{names[id(layer.org_module[0])]}"
            weights[f"{name}.lora_A.weight"] = layer.lora_down.weight
            weights[f"{name}.lora_B.weight"] = layer.lora_up.weight * layer.scale
            scale = layer.dora_scale  # (out, 1), or (out, 1, 1, 1) of a convolution, which PEFT has as (1, out, 1, 1)
            weights[f"{name}.lora_magnitude_vector"] = scale.flatten() if scale.ndim == 2 else scale.transpose(0, 1)
        return {name: value.detach().cpu().contiguous() for name, value in weights.items()}

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        (self.adapter or self.model).load_state_dict(load_file(folder / self.FILE[self.adapter is not None]))


@dataclass
class Stack:
    """All that turns captions into images.

    scheduler: diffusers' Euler for flow matching, a PathScheduler, or DDIM; its config says what the model predicts.
    """

    denoiser: Denoiser
    codec: Codec
    text: TextEncoder
    scheduler: Any

    @property
    def multiple(self) -> int:
        """Sides of an image must be multiples of this."""
        return self.codec.factor * self.family.multiple(self.denoiser.model.config)

    @property
    def largest(self) -> int | None:
        """Sides of an image must not be longer than this; None for any."""
        side = self.family.largest(self.denoiser.model.config)
        return None if side is None else self.codec.factor * side

    @property
    def family(self) -> Family:
        return self.denoiser.family

    def training_mu(self, height: int, width: int) -> float:
        """mu_res of Eq. 31 for latents of that size; 0 where the model's scheduler does not shift by resolution."""
        shifts, config = self.scheduler.config.use_dynamic_shifting, self.scheduler.config
        return line_mu(config, self._tokens(height, width)) if shifts else 0.0

    def sampling_mu(self, height: int, width: int, steps: int) -> float | None:
        """What the scheduler is told of latents of that size; nothing where it does not shift by resolution."""
        shifts, config = self.scheduler.config.use_dynamic_shifting, self.scheduler.config
        return self.family.sampling_mu(config, self._tokens(height, width), steps) if shifts else None

    def _tokens(self, height: int, width: int) -> int:
        side = self.family.multiple(self.denoiser.model.config)
        return (height // side) * (width // side)

    def to(self, device: torch.device) -> "Stack":
        """Move the frozen parts; accelerate moves the denoiser."""
        self.codec.to(device)
        self.text.to(device)
        return self


def make_stack(options: RunOptions, path: str = "linear") -> Stack:
    """The model of a run, its weights and adapter seeded. path: of equations/paths.py, for flow matching."""
    schedule, dtype = _schedule(options, path), weight_dtype(options.mixed_precision)
    torch.manual_seed(options.seed)
    codec = load_vae(options.vae, dtype) if options.vae else None
    if options.model is None:
        stack = build(options.arch, codec or PooledPixels(options.pool), options.width, options.depth, schedule)
        stack.denoiser.dtype = dtype  # its weights are trained, so they stay float32
    else:
        stack = load(options.arch, options.model, schedule, codec, options.pool, dtype)
        stack.denoiser.add_adapter(options.network_dim, options.network_alpha)
    if path != "linear":
        stack.scheduler = PathScheduler.from_config(stack.scheduler.config, path=path)
    return stack


def learns_flow(options: RunOptions) -> bool:
    """Whether the model of a run learns a velocity. Raises SgaError if --model cannot be trained."""
    return options.arch == "dit" if options.model is None else family_in(options.arch, options.model).flow


def _schedule(options: RunOptions, path: str) -> dict[str, Any]:
    """What the user asked of a noise schedule. Raises SgaError for what the run's kind of model does not have."""
    flow, model = learns_flow(options), f"--model {options.model}" if options.model else f"--arch {options.arch}"
    if path != "linear" and not flow:
        other = " and another --model" if options.model and options.arch == "dit" else ""
        raise SgaError(f"--path {path} is for flow matching: use it with --arch dit{other}")
    schedule: dict[str, Any] = {"prediction_type": options.prediction} if options.prediction else {}
    if options.zero_terminal_snr:
        schedule["rescale_betas_zero_snr"] = True
    if flow and schedule:
        words = [f"--prediction {options.prediction}"] * bool(options.prediction)
        words += ["--zero_terminal_snr"] * options.zero_terminal_snr
        verb = "are" if len(words) > 1 else "is"
        raise SgaError(
            f"{' and '.join(words)} {verb} for a model with a noise schedule, and {model} learns the velocity of a "
            f"flow: leave {'them' if len(words) > 1 else 'it'} out, or train a U-Net by --arch unet"
        )
    return schedule


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
    scheduler = _ddim({"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}, schedule)
    family = family_of("StableDiffusionPipeline")
    return Stack(Denoiser(model, family, codec.factor), codec, HashedWords(pooled_dim=None), scheduler)


def load(
    arch: str,
    folder: Path,
    schedule: dict[str, Any],
    vae: VaeCodec | None,
    pool: int,
    dtype: torch.dtype = torch.float32,
) -> Stack:
    """A local diffusers folder, never the network. Raises SgaError if it is none that can be trained.

    vae: in place of the folder's own. pool: of averaged pixels, where there is none at all. dtype: of all weights.
    """
    family, what, part = family_in(arch, folder), f"--model {folder}", "transformer" if arch == "dit" else "unet"
    codec = vae or (None if has_vae(folder) else PooledPixels(pool))
    if codec is not None:
        _must_fit(codec, family.channels(read_part(folder, part)), what)
    pipeline = _pipeline(folder, vae, dtype)
    model = getattr(pipeline, part)
    if codec is None:
        codec = codec_of(pipeline.vae, what)
        _must_fit(codec, family.channels(model.config), what)
    scheduler = _euler(pipeline.scheduler) if family.flow else _ddim(pipeline.scheduler.config, schedule)
    text = _text(pipeline, family, model.config, what)
    return Stack(Denoiser(model, family, codec.factor, dtype), codec, text, scheduler)


def _must_fit(codec: Codec, wanted: int, what: str) -> None:
    if codec.channels != wanted:
        raise SgaError(
            f"{what} knows latents of {wanted} channels, and here they have {codec.channels}: "
            "give the VAE that it was trained with by --vae"
        )


def _pipeline(folder: Path, vae: VaeCodec | None, dtype: torch.dtype) -> Any:
    """Raises SgaError where a part is missing or damaged."""
    # Parts that the folder lacks must be named as absent; the safety checker has no part in training.
    parts = {name: part for name, part in read_pipeline(folder).items() if isinstance(part, list)}
    given = {name: None for name, part in parts.items() if part == [None, None] or name == "safety_checker"}
    if vae is not None:
        given["vae"] = vae.vae
    missing = [name for name in parts if name not in given and not (folder / name).is_dir()]
    if missing:
        raise SgaError(
            f"--model {folder} lacks {', '.join(missing)}, which its model_index.json names: download the whole of it"
        )
    try:
        return DiffusionPipeline.from_pretrained(folder, local_files_only=True, torch_dtype=dtype, **given)
    # Of a damaged part diffusers, transformers, torch and safetensors each raise their own.
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise SgaError(f"--model {folder} cannot be loaded: {reason}; download or convert it again") from error


def _text(pipeline: Any, family: Family, config: Any, what: str) -> TextEncoder:
    """The pipeline's own, or hashed words for a folder without any. Raises SgaError for one with some of them."""
    kinds = ("text_encoder", "tokenizer")
    needed = [name for name in pipeline.components if name.startswith(kinds) and name not in family.optional]
    missing = [name for name in needed if getattr(pipeline, name) is None]
    if not missing:
        return PipelineText(pipeline, family.encode)
    if len(missing) < len(needed):
        raise SgaError(f"{what} has some of {', '.join(needed)} but no {', '.join(missing)}: add what is missing")
    logger.warning(
        "%s has no text encoder: captions become random vectors, one a word, and what the adapter learns of them no "
        "other program knows. Add %s to the folder, unless the samples of this trainer are all you want.",
        what,
        " and ".join(needed),
    )
    return HashedWords(*family.text_widths(config))


def family_in(arch: str, folder: Path) -> Family:
    """The family of a local diffusers folder. Raises SgaError if it is none, or of another kind than `arch`."""
    kind = read_pipeline(folder)["_class_name"]
    what = f"--model {folder} is a {kind}"
    if kind not in FAMILIES:
        known, near = ", ".join(trained_as(arch)), closest(kind, FAMILIES)
        raise SgaError(f"{what}; --arch {arch} trains {known}" + (f"; closest to it is {near}" if near else ""))
    family = family_of(kind)
    if family.arch != arch:
        raise SgaError(f"{what}: train it by --arch {family.arch}; --arch {arch} trains {', '.join(trained_as(arch))}")
    need_diffusers(family.since, what.replace(" is a ", ", a ") + ",")
    return family


def _euler(scheduler: Any) -> Any:
    """The scheduler of a flow, or Euler's over its noise levels."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return scheduler
    return FlowMatchEulerDiscreteScheduler(shift=scheduler.config.get("flow_shift", 1.0))


def _ddim(config: Any, schedule: dict[str, Any]) -> Any:
    """schedule: what the user asked for, over the model's own. The last step must be sampled for zero terminal SNR."""
    return DDIMScheduler.from_config(config, clip_sample=False, timestep_spacing="trailing", **schedule)
