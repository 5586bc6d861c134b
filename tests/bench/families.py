"""Rows of the paper's Table 7 as tiny models: trained by the command line, drawn in diffusers, measured.

With a folder of the newest diffusers (.ci/run makes one): PYTHONPATH=FOLDER:. python tests/bench/families.py OUT
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import DiffusionPipeline
from lycoris import create_lycoris_from_weights

from sga_kohya.config import SgaConfig
from sga_kohya.reference.options import RunOptions
from sga_kohya.reference.published import load
from sga_kohya.reference.sample import sample
from sga_kohya.reference.trainer import Trainer
from tests.reference_world import cut_photos, expected_gradients, gradients
from tests.test_reference_families import CAPTIONS, SIZE, STEPS, drawn_by
from tests.tiny_pipelines import TINY

SETTINGS = {"network_dim": 16, "lr": 3e-3}


def losses(folder: Path) -> dict[str, list[float]]:
    """Granularity -> its loss, a number a step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def eq_6(dataset: Path, model: Path) -> float:
    """The largest difference between a gradient of the first step and Eq. 6, over the largest gradient."""
    with TemporaryDirectory() as out:
        options = RunOptions(dataset, Path(out), model=model, steps=1, network_dim=SETTINGS["network_dim"])
        trainer = Trainer(options, SgaConfig(groups_per_step=5))
        expected = expected_gradients(trainer)
        found = gradients(trainer)
    worst = max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))
    return worst / max(float(g.abs().max()) for g in expected)


def loaded_back(model: Path, run: Path) -> tuple[str, float, float]:
    """By what diffusers took the adapter, its images' largest difference from ours, and what training changed."""
    stack = load("dit", model, {}, None, 4)
    before = sample(stack, CAPTIONS, SIZE, STEPS)
    stack.denoiser.add_adapter(SETTINGS["network_dim"], 16.0)
    stack.denoiser.load(run / "model")
    ours = sample(stack, CAPTIONS, SIZE, STEPS)
    pipeline = DiffusionPipeline.from_pretrained(model)
    if hasattr(pipeline, "load_lora_weights"):
        pipeline.load_lora_weights(run / "model", weight_name="pytorch_lora_weights.safetensors")
        way = "load_lora_weights"
    else:
        adapter = str(run / "model" / "adapter.safetensors")
        create_lycoris_from_weights(1.0, adapter, pipeline.transformer)[0].merge_to()
        way = "LyCORIS"
    return way, float((drawn_by(pipeline, stack) - ours).abs().max()), float((ours - before).abs().max())


def measure(kind: str, dataset: Path, out: Path, steps: int) -> dict:
    torch.manual_seed(0)
    model, run = out / kind / "model", out / kind / "run"
    TINY[kind]().save_pretrained(model)
    command = f"-m sga_kohya.reference --dataset_config {dataset} --model {model} --out {run} --steps {steps}"
    settings = [f"--{name}={value}" for name, value in SETTINGS.items()]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, *command.split(), *settings], check=True, capture_output=True, text=True)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    curves, part = losses(run / "logs"), steps // 5
    first, last = ({tag: sum(c[at]) / part for tag, c in curves.items()} for at in (slice(part), slice(-part, None)))
    way, difference, changed = loaded_back(model, run)
    return {
        "said": done.stdout.strip().splitlines()[-1],
        "processor_seconds": round(spent, 1),
        "loss_of_the_first_fifth": {tag: round(value, 3) for tag, value in first.items()},
        "loss_of_the_last_fifth": {tag: round(value, 3) for tag, value in last.items()},
        "eq_6_error": eq_6(dataset, model),
        "loaded_by": way,
        "image_difference": difference,
        "image_changed_by_training": changed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kinds", nargs="+", choices=TINY, default=["flux2", "pixart", "auraflow"])
    parser.add_argument("--steps", type=int, default=150)
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    torch.set_num_threads(1)
    dataset = cut_photos(args.out)
    for kind in args.kinds:
        print(json.dumps({kind: measure(kind, dataset, args.out, args.steps)}, indent=1), flush=True)


if __name__ == "__main__":
    main()
