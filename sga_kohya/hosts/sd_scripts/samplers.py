"""What sd-scripts' own scripts want to hear, so that one process samples many prompts with one model load.

Three protocols cover them all:

- interactive: FLUX, SD3 and Lumina's minimal inference read one prompt a line from standard input;
- listed: gen_img, Anima and HunyuanImage read a file of prompts;
- trainer: a training script draws its sample images of step 0 and stops. This is the one that loads every network as
  it was trained (LyCORIS, DoRA), for the minimal inference scripts know sd-scripts' own networks only.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import toml
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.hosts.sampling import (
    INTERACTIVE,
    LISTED,
    TRAINER,
    Job,
    Sampling,
    Script,
    by_seeds,
    training_of,
    words_of_lines,
)
from sga_kohya.kit.safetensors_file import read_header

SCRIPTS = {
    "flux_minimal_inference.py": Script(
        INTERACTIVE, "output_dir", "lora_weights", sizes={"guidance": "g", "scale": "c"}, refused="--"
    ),
    "sd3_minimal_inference.py": Script(INTERACTIVE, "output_dir", "lora_weights", sizes={"scale": "c"}, refused="--"),
    "lumina_minimal_inference.py": Script(
        INTERACTIVE, "output_dir", "lora_weights", "exit", sizes={"scale": "g"}, refused="--"
    ),
    "gen_img.py": Script(LISTED, "outdir", "network_weights", sizes={"scale": "l"}, file_option=True),
    "anima_minimal_inference.py": Script(LISTED, "save_path", "lora_weight", sizes={"scale": "g"}),
    "hunyuan_image_minimal_inference.py": Script(LISTED, "save_path", "lora_weight", sizes={"scale": "g"}),
    **dict.fromkeys(
        (
            "train_network.py",
            "sdxl_train_network.py",
            "flux_train_network.py",
            "sd3_train_network.py",
            "lumina_train_network.py",
            "anima_train_network.py",
            "hunyuan_image_train_network.py",
        ),
        Script(TRAINER, weights="network_weights", refused="\n"),
    ),
}


def check(sampling: Sampling) -> None:
    """Raises SgaError where a training script has no TOML to draw with."""
    if SCRIPTS[sampling.script].protocol == TRAINER:
        read_training(sampling)


def refuse_weights(sampling: Sampling, weights: Path) -> None:
    """Raises SgaError where the script would fail, minutes later, on a network that it does not know."""
    if SCRIPTS[sampling.script].protocol != INTERACTIVE or weights.suffix != ".safetensors":
        return
    if any(key.startswith("lycoris_") for key in read_header(weights)):
        trainer = sampling.script.replace("minimal_inference", "train_network")
        raise SgaError(
            f"{weights} is a LyCORIS network, which {sampling.script} cannot load: "
            f"write script = {trainer!r} and config = the TOML of its training"
        )


def arguments_of(
    sampling: Sampling, further: Mapping[str, Any], weights: Path | None, jobs: Sequence[Job], work: Path
) -> list[str]:
    """See Sampler."""
    script = SCRIPTS[sampling.script]
    arguments = {**sampling.arguments, **further}
    if script.protocol == TRAINER:
        write_training(sampling, arguments, weights, jobs, work)
        return ["--config_file", str(work / "sampling.toml")]
    if weights is not None:
        arguments[sampling.weights_as or script.weights] = str(weights)
    return words_of_lines(script, sampling, arguments, jobs, work)


# Keys of a training TOML that sampling has no use for. Those of its data are replaced by one grey picture: the trainer
# insists on a dataset, and the real one would have its latents cached first.
_UNUSED = re.compile(
    r"dataset_config|train_data_dir|reg_data_dir|in_json|max_train_\w+|save_\w+|sample_\w+|validat\w+|resume|initial_\w+"
    r"|skip_until_initial_step|log\w*|wandb\w*|output_\w+|huggingface\w*|sga\w*|optimizer_\w+|lr_\w+|fused_\w+"
    r"|blockwise_\w+|gradient_accumulation_steps|\w*data_loader\w*|async_upload|training_comment|dim_from_weights"
)


def write_training(
    sampling: Sampling, arguments: Mapping[str, Any], weights: Path | None, jobs: Sequence[Job], work: Path
) -> None:
    """Write sampling.toml: the training's settings, no step, and sample images before the first."""
    config = read_training(sampling)
    data = work / "data"
    data.mkdir()
    Image.new("RGB", (256, 256), (128, 128, 128)).save(data / "grey.png")
    (data / "grey.txt").write_text("grey", encoding="utf-8")
    subset = {"image_dir": str(data), "num_repeats": 1, "caption_extension": ".txt"}
    _write_toml(work / "dataset.toml", {"datasets": [{"resolution": 256, "batch_size": 1, "subsets": [subset]}]})
    prompts = [
        {
            "prompt": job.prompt,
            "width": sampling.width,
            "height": sampling.height,
            "sample_steps": sampling.steps,
            "guidance_scale": sampling.guidance,
            "scale": sampling.scale,
            "seed": job.seed,
            **({"negative_prompt": sampling.negative} if sampling.negative else {}),
        }
        for job in jobs
    ]
    (work / "prompts.json").write_text(json.dumps(prompts), encoding="utf-8")
    kept = {key: value for key, value in config.items() if not _UNUSED.fullmatch(key)}
    fixed = {
        "dataset_config": str(work / "dataset.toml"),
        "output_dir": str(work),
        "output_name": "sampling",
        "max_train_steps": 0,
        "max_data_loader_n_workers": 0,
        "optimizer_type": "AdamW",
        "lr_scheduler": "constant",
        "sample_at_first": True,
        "sample_prompts": str(work / "prompts.json"),
    }
    if weights is not None:
        fixed[sampling.weights_as or "network_weights"] = str(weights)
    _write_toml(work / "sampling.toml", {**kept, **arguments, **fixed})


def read_training(sampling: Sampling) -> dict[str, Any]:
    """The settings in the TOML of a training. Raises SgaError where it cannot be sampled with."""
    path, settings = training_of(sampling)
    if not settings.get("network_module"):
        raise SgaError(
            f"{path} has no network_module: sample a full fine-tune with a minimal inference script or gen_img.py"
        )
    return settings


def _write_toml(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(toml.dumps(values), encoding="utf-8")


def finished(sampling: Sampling, jobs: Sequence[Job], work: Path) -> list[tuple[Job, Path]]:
    """See Sampler."""
    script = SCRIPTS[sampling.script]
    if script.protocol == TRAINER:
        named = ((re.search(r"_(\d{2,})_\d{14}", path.stem), path) for path in (work / "sample").glob("*.png"))
        found = {int(match.group(1)): path for match, path in named if match}
    elif script.file_option:
        found = {int(path.stem): path for path in (work / "images").glob("*.png") if path.stem.isdigit()}
    else:
        return by_seeds(sampling, jobs, work)
    return [(job, found[job.number]) for job in jobs if job.number in found]
