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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import toml
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.hosts.sampling import Sampling
from sga_kohya.kit.safetensors_file import read_header
from sga_kohya.kit.toml_file import merge_sections, read_toml


@dataclass(frozen=True)
class Job:
    """One image to make. number: its place in this process's list, from 0."""

    number: int
    prompt: str
    seed: int


@dataclass(frozen=True)
class Script:
    """protocol: see above. folder: its option for the output folder. weights: its option for a trained adapter.

    end: what ends an interactive one. sizes: the letters of guidance and scale in a prompt's line. file_option: whether
    a prompt's line may name the file. refused: what no prompt may hold, because an option would begin there.
    """

    protocol: str
    folder: str = ""
    weights: str = ""
    end: str = ""
    sizes: Mapping[str, str] = field(default_factory=dict)
    file_option: bool = False
    refused: str = " --"

    @property
    def names_jobs(self) -> bool:
        """Whether the name of an image tells its job."""
        return self.protocol == "trainer" or self.file_option


SCRIPTS = {
    "flux_minimal_inference.py": Script(
        "interactive", "output_dir", "lora_weights", sizes={"guidance": "g", "scale": "c"}, refused="--"
    ),
    "sd3_minimal_inference.py": Script("interactive", "output_dir", "lora_weights", sizes={"scale": "c"}, refused="--"),
    "lumina_minimal_inference.py": Script(
        "interactive", "output_dir", "lora_weights", "exit", sizes={"scale": "g"}, refused="--"
    ),
    "gen_img.py": Script("listed", "outdir", "network_weights", sizes={"scale": "l"}, file_option=True),
    "anima_minimal_inference.py": Script("listed", "save_path", "lora_weight", sizes={"scale": "g"}),
    "hunyuan_image_minimal_inference.py": Script("listed", "save_path", "lora_weight", sizes={"scale": "g"}),
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
        Script("trainer", weights="network_weights", refused="\n"),
    ),
}


def find_script(name: str) -> Script:
    if name not in SCRIPTS:
        raise SgaError(f"[generate]: script = {name!r}: write one of {', '.join(SCRIPTS)}")
    return SCRIPTS[name]


def refuse_prompt(sampling: Sampling, prompt: str) -> None:
    """sd-scripts reads its options out of the prompt. Raises SgaError where it would take a part of it for one."""
    refused = find_script(sampling.script).refused
    if refused in prompt or "\n" in prompt:
        raise SgaError(f"prompt {prompt!r}: {sampling.script} would take {refused!r} for an option; reword it")


def refuse_weights(sampling: Sampling, weights: Path) -> None:
    """Raises SgaError where the script would fail, minutes later, on a network that it does not know."""
    if find_script(sampling.script).protocol != "interactive" or weights.suffix != ".safetensors":
        return
    if any(key.startswith("lycoris_") for key in read_header(weights)):
        trainer = sampling.script.replace("minimal_inference", "train_network")
        raise SgaError(
            f"{weights} is a LyCORIS network, which {sampling.script} cannot load: "
            f"write script = {trainer!r} and config = the TOML of its training"
        )


def line_of(sampling: Sampling, job: Job) -> str:
    """A prompt with its options, as interactive and listed scripts read it."""
    script = find_script(sampling.script)
    options: dict[str, Any] = {"w": sampling.width, "h": sampling.height, "s": sampling.steps, "d": job.seed}
    options |= {letter: getattr(sampling, name) for name, letter in script.sizes.items()}
    if sampling.negative:
        options["n"] = sampling.negative
    if script.file_option:
        options["f"] = f"{job.number:06d}.png"
    return " ".join([job.prompt, *(f"--{letter} {value}" for letter, value in options.items())])


def arguments_of(
    sampling: Sampling, further: Mapping[str, Any], weights: Path | None, jobs: Sequence[Job], work: Path
) -> list[str]:
    """The command line behind the script's name. Writes what it refers to into `work`; images will be in work/images.

    further: the variant's own arguments, over those of [generate.arguments].
    """
    script = find_script(sampling.script)
    arguments = {**sampling.arguments, **further}
    if script.protocol == "trainer":
        write_training(sampling, arguments, weights, jobs, work)
        return ["--config_file", str(work / "sampling.toml")]
    if weights is not None:
        arguments[sampling.weights_as or script.weights] = str(weights)
    arguments[script.folder] = str(work / "images")
    if script.protocol == "interactive":
        arguments["interactive"] = True
    else:
        lines = "".join(f"{line_of(sampling, job)}\n" for job in jobs)
        (work / "prompts.txt").write_text(lines, encoding="utf-8")
        arguments["from_file"] = str(work / "prompts.txt")
    return to_words(arguments)


def to_words(arguments: Mapping[str, Any]) -> list[str]:
    """{"fp16": true, "n": 3, "list": [1, 2]} as --fp16 --n 3 --list 1 2; false leaves it out."""
    words = []
    for key, value in arguments.items():
        if value is not False:
            values = [] if value is True else value if isinstance(value, list) else [value]
            words += [f"--{key}", *map(str, values)]
    return words


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
    if not sampling.config:
        raise SgaError(f"[generate]: config is missing: {sampling.script} needs the TOML of the training")
    path = Path(sampling.config)
    settings = merge_sections(read_toml(path, "[generate]: config"))
    if not settings.get("network_module"):
        raise SgaError(
            f"{path} has no network_module: sample a full fine-tune with a minimal inference script or gen_img.py"
        )
    return settings


def _write_toml(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(toml.dumps(values), encoding="utf-8")


def finished(sampling: Sampling, jobs: Sequence[Job], work: Path) -> list[tuple[Job, Path]]:
    """The images that lie there from a trainer or a listed script, each with its job, in their order.

    Where names do not tell the job, only after the script has ended. Raises SgaError when they are not those asked for.
    """
    script = find_script(sampling.script)
    if script.protocol == "trainer":
        named = ((re.search(r"_(\d{2,})_\d{14}", path.stem), path) for path in (work / "sample").glob("*.png"))
        found = {int(match.group(1)): path for match, path in named if match}
    elif script.file_option:
        found = {int(path.stem): path for path in (work / "images").glob("*.png") if path.stem.isdigit()}
    else:
        # Their names are time_seed.png, and all are decoded at the end in the order of the list.
        paths = sorted((work / "images").glob("*.png"))
        seeds = [path.stem.rpartition("_")[2] for path in paths]
        if seeds != [str(job.seed) for job in jobs]:
            raise SgaError(f"{sampling.script} made images of the seeds {seeds}, not the {len(jobs)} asked for")
        found = dict(enumerate(paths))
    return [(job, found[job.number]) for job in jobs if job.number in found]
