"""ai_toolkit.yaml: a job of ai-toolkit whose datasets are the exported folders. Model and training are its reader's."""

import re
from pathlib import Path

from sga_kohya.hsd.out.exports.export import HEADER, Caches, Dataset, Export, Level, quoted
from sga_kohya.kit.cli import shell_word
from sga_kohya.kit.sealed import sealed

_CACHE = re.compile(r"(.+)_[A-Za-z0-9_-]{22}\.safetensors")
"""STEM_HASH, the hash in URL-safe base64."""


def job(dataset: Dataset) -> str:
    return sealed(HEADER, "".join([_head(dataset), *(_folder(level, dataset) for level in dataset.present)]))


def caches_by_stem(out: Path) -> Caches:
    found: dict[str, list[Path]] = {}
    for file in sorted(out.glob("*/_latent_cache/*.safetensors")):
        match = _CACHE.fullmatch(file.name)
        if match:
            found.setdefault(f"{file.parent.parent.name}/{match.group(1)}", []).append(file)
    return found


def _head(dataset: Dataset) -> str:
    return f"""
# Yours to choose: model, network, and how long to train.
job: extension
config:
  name: {quoted(dataset.out.name)}
  process:
    - type: sd_trainer
      training_folder: output
      device: cuda:0
      network: {{type: lora, linear: 32, linear_alpha: 32}}
      save: {{dtype: float16, save_every: 250}}
      model: {{name_or_path: black-forest-labs/FLUX.1-dev, arch: flux, quantize: true}}
      train:
        batch_size: {dataset.batch_size}
        steps: 2000
        lr: 1e-4
        optimizer: adamw8bit
        noise_scheduler: flowmatch
        dtype: bf16
      datasets:
"""


def _folder(level: Level, dataset: Dataset) -> str:
    return f"""        - folder_path: {quoted(level.folder)}
          caption_ext: txt
          # No slice has a larger area, and every side is a multiple of 64: nothing is resized or cropped again.
          resolution: {dataset.resolution}
          num_repeats: {level.repeats}
          cache_latents_to_disk: true
{_masks(level)}"""


def _masks(level: Level) -> str:
    if level.masks:
        return f"          mask_path: {quoted(level.masks)}\n"
    return "          alpha_mask: true\n" if level.alpha else ""


def _use(file: Path, masked: bool) -> list[str]:
    return [f"python run.py {shell_word(file)}"]


AI_TOOLKIT = Export(
    name="ai-toolkit",
    trainer="ai-toolkit",
    file="ai_toolkit.yaml",
    write=job,
    use=_use,
    gets="the slices as they are, none resized",
    loses="noise levels by granularity, tuples and Eq. 6: it has no such setting for a dataset",
    caches=caches_by_stem,
)
