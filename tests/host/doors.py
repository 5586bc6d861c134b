"""Every door with a short run on its tiny stack: what the tests and the version matrix go through."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import tiny_anima, tiny_flux, tiny_hunyuan, tiny_lumina, tiny_sd3, tiny_sd15, tiny_sdxl

SHIFT, SNR = "timestep_shift", "snr_gamma"  # the values of ss_sga_modulated_by
# (paths of FLUX's tiny checkpoints, dataset.toml, output folder, further options) -> the script's options.
Arguments = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Door:
    """trains: what, in the README's words. modulation: SHIFT or SNR. model: set where one script trains several."""

    script: str
    trains: str
    modulation: str
    arguments: Arguments
    model: str = ""

    @property
    def name(self) -> str:
        return self.script.removesuffix(".py") + (f" ({self.model})" if self.model else "")


def _door(stack: Any, script: str, trains: str, modulation: str = SHIFT) -> Door:
    def arguments(models: dict[str, Path], dataset: Path, out: Path, **changes: Any) -> dict[str, Any]:
        return stack.train_args(script, dataset, out, **changes)

    return Door(script, trains, modulation, arguments)


DOORS = (
    Door("flux_train_network.py", "FLUX.1 LoRA, DoRA, LyCORIS", SHIFT, tiny_flux.lora_args),
    Door("flux_train_network.py", "Chroma LoRA, LyCORIS", SHIFT, tiny_flux.chroma_args, "Chroma"),
    Door("flux_train.py", "FLUX.1 full fine-tune", SHIFT, tiny_flux.finetune_args),
    _door(tiny_sdxl, "sdxl_train_network.py", "SDXL LoRA, LoCon, LyCORIS", SNR),
    _door(tiny_sdxl, "sdxl_train.py", "SDXL full fine-tune", SNR),
    _door(tiny_sdxl, "sdxl_train_textual_inversion.py", "SDXL textual inversion", SNR),
    _door(tiny_sd15, "train_network.py", "Stable Diffusion 1 and 2 LoRA, LyCORIS", SNR),
    _door(tiny_sd15, "train_db.py", "Stable Diffusion 1 and 2 full fine-tune", SNR),
    _door(tiny_sd15, "fine_tune.py", "the same, from a metadata file", SNR),
    _door(tiny_sd15, "train_textual_inversion.py", "Stable Diffusion 1 and 2 textual inversion", SNR),
    _door(tiny_sd3, "sd3_train_network.py", "SD3 and SD3.5 LoRA, LyCORIS"),
    _door(tiny_sd3, "sd3_train.py", "SD3 and SD3.5 full fine-tune"),
    _door(tiny_lumina, "lumina_train_network.py", "Lumina Image 2 LoRA, LyCORIS"),
    _door(tiny_lumina, "lumina_train.py", "Lumina Image 2 full fine-tune"),
    _door(tiny_anima, "anima_train_network.py", "Anima LoRA, LyCORIS"),
    _door(tiny_anima, "anima_train.py", "Anima full fine-tune"),
    _door(tiny_hunyuan, "hunyuan_image_train_network.py", "HunyuanImage-2.1 LoRA, LyCORIS"),
)
