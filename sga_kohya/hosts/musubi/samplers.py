"""musubi-tuner's own scripts that draw pictures and that cache, for a training whose TOML is there.

All of them read a file of prompts and load the models once. Krea 2's and Kontext's ask for more than that, Ideogram 4's
and HiDream-O1's read one prompt, and the others make videos.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.hosts.sampling import LISTED, Job, Sampling, Script, by_seeds, to_words, training_of, words_of_lines
from sga_kohya.kit.safetensors_file import read_header

FAMILIES = {
    "flux_2_train_network": "flux_2",
    "zimage_train_network": "zimage",
    "zimage_train": "zimage",
    "qwen_image_train_network": "qwen_image",
    "qwen_image_train": "qwen_image",
}
"""A training script -> how the names of its family's other scripts begin."""
SCRIPTS = {
    f"{family}_generate_image.py": Script(LISTED, "save_path", "lora_weight", sizes={"scale": "g"})
    for family in dict.fromkeys(FAMILIES.values())
}
_MODELS = ("dit", "vae", "text_encoder")
_VERSIONS = ("model_version",)
_SMALL_TEXT = ("fp8_text_encoder", "fp8_llm")
"""What holds the text encoder in 8 bits; Qwen-Image's fp8_vl is not among the options of its script."""
_CACHING = {
    "latents": ("vae", *_VERSIONS),
    "text_encoder_outputs": ("text_encoder", *_VERSIONS, *_SMALL_TEXT, "fp8_vl"),
}


def script_for(door: str) -> str | None:
    """What draws with the models of a training script; None where nothing does that we can ask."""
    return f"{FAMILIES[door]}_generate_image.py" if door in FAMILIES else None


def caching(door: str, settings: Mapping[str, Any], dataset: Path) -> Iterator[tuple[str, list[str]]]:
    """Each script that makes a dataset's caches, and the words behind it. settings: of the training."""
    for what, names in _CACHING.items():
        words = to_words({"dataset_config": str(dataset), **_shared(settings, names)})
        yield f"{FAMILIES[door]}_cache_{what}.py", words


def missing(settings: Mapping[str, Any]) -> list[str]:
    """The models that a training could do without, and these scripts cannot."""
    return [name for name in _MODELS if not settings.get(name)]


def check(sampling: Sampling) -> None:
    """Raises SgaError where the training's TOML names no models to draw with."""
    path, settings = training_of(sampling)
    if names := missing({**settings, **sampling.arguments}):
        raise SgaError(f"{path} has no {' and no '.join(names)}, which {sampling.script} needs: add it")


def refuse_weights(sampling: Sampling, weights: Path) -> None:
    """They load every network that their trainers make."""


def arguments_of(
    sampling: Sampling, further: Mapping[str, Any], weights: Path | None, jobs: Sequence[Job], work: Path
) -> list[str]:
    """See Sampler."""
    script = SCRIPTS[sampling.script]
    _, settings = training_of(sampling)
    arguments = {**_shared(settings, (*_MODELS, *_VERSIONS, *_SMALL_TEXT, "fp8_scaled", "blocks_to_swap"))}
    if settings.get("fp8_base"):
        arguments["fp8"] = True
    if sampling.script.startswith("flux_2"):
        arguments["embedded_cfg_scale"] = sampling.guidance
    if weights is not None:
        adapter = sampling.weights_as or (script.weights if settings.get("network_module") else "dit")
        # The scripts' own default of the multiplier is a number, of which they then ask the length.
        arguments |= {adapter: str(weights), **({"lora_multiplier": 1.0} if adapter == script.weights else {})}
        if weights.suffix == ".safetensors" and any(key.startswith("lycoris_") for key in read_header(weights)):
            arguments["lycoris"] = True
    return words_of_lines(script, sampling, {**arguments, **sampling.arguments, **further}, jobs, work)


def finished(sampling: Sampling, jobs: Sequence[Job], work: Path) -> list[tuple[Job, Path]]:
    """See Sampler."""
    return by_seeds(sampling, jobs, work)


def _shared(settings: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The options of a training that another script of its family has under the same name."""
    return {name: settings[name] for name in names if settings.get(name)}
