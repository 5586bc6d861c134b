"""Make what is missing of the plan's images by a trainer's own scripts, a process for each variant and dataset.

Every image appears under its final name whole, with the size and the pixels that they gave it but without its
metadata. Images of other settings or other weights than now asked for are made anew.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.plan.plan import Cell, Dataset, Plan, Variant
from sga_kohya.evaluate.process import Process
from sga_kohya.evaluate.sample.images import folder_of, missing_images, weights_of
from sga_kohya.evaluate.trainers import Program, drawing_with, script_named
from sga_kohya.hosts.sampling import INTERACTIVE, Job, Sampling, line_of
from sga_kohya.kit.files import write_whole

SETTINGS = "settings.json"


@dataclass(frozen=True)
class Task:
    """What one process makes. weights: None for the base model."""

    variant: Variant
    dataset: Dataset
    sampling: Sampling
    weights: Path | None


def generate(plan: Plan, checkout: Path, command: Sequence[str] | None = None, only: str = "") -> int:
    """Sample every image of the plan that is not there. Returns how many were made.

    checkout: the folder of the trainer's scripts. command: what runs one of them, by default this Python.
    only: the name of one variant. Raises SgaError before the first process starts for whatever files alone show.
    """
    if only and only not in plan.variant_names:
        raise SgaError(f"--only {only}: no such variant; the plan has {', '.join(plan.variant_names)}")
    todo = [
        Task(variant, dataset, sampling_of(plan, variant, dataset), weights_of(plan, variant, dataset))
        for variant in plan.variants
        for dataset in plan.datasets
        if not variant.images and only in ("", variant.name)
    ]
    for task in todo:
        check(task.sampling, task.dataset, task.weights, checkout if command is None else None)
    return sum(_sample_all(plan, task, checkout, command) for task in todo)


def sampling_of(plan: Plan, variant: Variant, dataset: Dataset) -> Sampling:
    """The plan's sampling with the names filled in. `config` is relative to the plan."""
    # What is compared with the arms, such as the base model, is sampled as they are.
    named = variant.arm or (plan.train.arms[0] if plan.train else variant.name)
    config = plan.sampling.config.replace("{dataset}", dataset.name).replace("{variant}", named)
    return replace(plan.sampling, config=str(plan.folder / config) if config else "")


def check(sampling: Sampling, dataset: Dataset, weights: Path | None, checkout: Path | None) -> None:
    """Raises SgaError for what files alone show. checkout: None where something else runs the script."""
    trainer = drawing_with(sampling.script)
    trainer.sampler.check(sampling)
    if checkout and not (checkout / sampling.script).is_file():
        raise SgaError(f"{checkout} has no {sampling.script}: use another script or a newer version of {trainer.name}")
    refused = script_named(sampling.script).refused
    for prompt in dataset.prompts:
        if refused in prompt or "\n" in prompt:
            raise SgaError(f"prompt {prompt!r}: {sampling.script} would take {refused!r} for an option; reword it")
    if weights is not None:
        trainer.sampler.refuse_weights(sampling, weights)


def _sample_all(plan: Plan, task: Task, checkout: Path, command: Sequence[str] | None) -> int:
    """Make what is missing. Returns how many images that were."""
    folder = folder_of(plan, task.variant, task.dataset)
    folder.mkdir(parents=True, exist_ok=True)
    _clear_other_settings(folder, task)
    cells = missing_images(plan, task.variant, task.dataset)
    if not cells:
        return 0
    script = task.sampling.script
    program = drawing_with(script).program(checkout, script) if command is None else Program(command)
    said = _run_script(task, folder, cells, program)
    if left := missing_images(plan, task.variant, task.dataset):
        raise SgaError(
            f"{task.sampling.script} made {len(cells) - len(left)} of {len(cells)} images of {task.variant.name} for "
            f"{task.dataset.name}; run it again for the rest. The end of what it said:\n{said}"
        )
    return len(cells)


def _clear_other_settings(folder: Path, task: Task) -> None:
    """Remove images that other settings made, and note what makes them now. Raises SgaError for those of another."""
    settings = _settings(task)
    if _read(folder / SETTINGS) == settings:
        return
    earlier = sorted(folder.glob("p*_s*.png"))
    if earlier and not (folder / SETTINGS).is_file():
        raise SgaError(
            f"variant {task.variant.name}: {len(earlier)} images in {folder} were not made here, such as "
            f"{earlier[0].name}: move them away, or name them as `images` of the variant"
        )
    for old in earlier:
        old.unlink()
    write_whole(folder / SETTINGS, settings)


def _run_script(task: Task, folder: Path, cells: Sequence[Cell], program: Program) -> str:
    """Move each image to its place in the folder as it comes. Returns the end of what the script said."""
    jobs = [Job(number, task.dataset.prompts[cell.prompt], cell.seed) for number, cell in enumerate(cells)]
    with tempfile.TemporaryDirectory(dir=folder, prefix=".sampling-") as name:
        work = Path(name)
        (work / "images").mkdir()
        sampler = drawing_with(task.sampling.script).sampler
        words = sampler.arguments_of(task.sampling, task.variant.arguments, task.weights, jobs, work)
        bar = tqdm(total=len(jobs), desc=f"{task.dataset.name} {task.variant.name}", unit="image")
        with bar, Process([*program.words, *words], program.environment) as process:
            for job, path in _images(process, task.sampling, jobs, work):
                move(path, folder / cells[job.number].file)
                bar.update()
    return process.tail()


def _images(process: Process, sampling: Sampling, jobs: Sequence[Job], work: Path) -> Iterator[tuple[Job, Path]]:
    """Each job with its image, as they come; fewer than asked for when the script fails. Whoever takes one moves it."""
    script, finished = script_named(sampling.script), drawing_with(sampling.script).sampler.finished
    if script.protocol == INTERACTIVE:
        # One at a time: the scripts name images by the second, and two of one second are one file.
        waiting = process.wait_for("Enter prompt")
        for job in jobs:
            if not waiting:
                return
            process.say(line_of(script, sampling, job))
            waiting = process.wait_for("Enter prompt")
            for path in (work / "images").glob("*.png"):
                yield job, path
        if waiting:
            process.say(script.end)
        process.wait()
        return
    while process.runs(seconds=1):
        if script.names_jobs:
            yield from finished(sampling, jobs, work)[:-1]  # the last one may not be whole yet
    yield from finished(sampling, jobs, work)


def move(source: Path, target: Path) -> None:
    """Save a picture without its metadata, whole or not at all. Both are on one disk."""
    with Image.open(source) as opened:
        image = opened.convert("RGB")
    clean = Image.frombytes("RGB", image.size, image.tobytes())
    partial = source.with_suffix(".partial")
    clean.save(partial, format="PNG")
    os.replace(partial, target)
    source.unlink()


def _settings(task: Task) -> str:
    """What an image depends on besides its own prompt's place and seed."""
    weights, config = task.weights, task.sampling.config
    file = None if weights is None else [str(weights), weights.stat().st_size, weights.stat().st_mtime_ns]
    values = {
        "sampling": asdict(task.sampling),
        "arguments": dict(task.variant.arguments),
        "prompts": task.dataset.prompts,
        "weights": file,
        "config": hashlib.sha256(Path(config).read_bytes()).hexdigest() if config else None,
    }
    return json.dumps(values, indent=1, sort_keys=True)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def clear_leftovers(images: Path) -> None:
    """Remove the work folders that a kill left behind. images: of one variant and dataset, held by this process."""
    for folder in images.glob(".sampling-*"):
        shutil.rmtree(folder, ignore_errors=True)
