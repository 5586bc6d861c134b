"""The trained network: a model of diffusers, whole or frozen under a LyCORIS adapter, and its files."""

from pathlib import Path
from typing import Any

import torch
from lycoris import LycorisNetwork
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sga_kohya.errors import SgaError
from sga_kohya.kit.files import whole_file
from sga_kohya.reference.dora import compute_beside_the_weight
from sga_kohya.reference.family import Family
from sga_kohya.reference.precision import autocast
from sga_kohya.reference.text import Text


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

    def recompute(self) -> None:
        """Keep no activations inside blocks for the way back: they are computed once more. Gradients stay the same.

        Raises SgaError for a network of diffusers that cannot.
        """
        if not self.model._supports_gradient_checkpointing:
            raise SgaError(
                f"--gradient_checkpointing: diffusers' {type(self.model).__name__} has none: leave it out; slices of "
                "fewer pixels and a smaller --batch_size need less memory, too"
            )
        self.model.enable_gradient_checkpointing()

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
