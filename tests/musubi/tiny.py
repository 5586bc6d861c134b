"""Runs of the real musubi-tuner on CPU with a FLUX.2 of a few hundred thousand parameters, several in one process.

    python tests/musubi/tiny.py SRC JOBS.json

SRC: the folder to import musubi_tuner from. A job: {"door": "stock" | "sga", "args": {…}, "record": FILE or null}. Its
imports take longer than all its runs, therefore the jobs. What is recorded: see tests/host/run.py; a batch has `ids`,
the number that `write_dataset` wrote into each sample's latents.
"""

import dataclasses
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

SCRIPT = "flux_2_train_network"
HIDDEN, CONTEXT = 64, 48


def shrink_host() -> None:
    """Call once musubi_tuner is on sys.path and before a script runs."""
    from musubi_tuner.flux_2 import flux2_models, flux2_utils

    info = flux2_utils.FLUX2_MODEL_INFO["klein-base-4b"]
    params = flux2_models.Klein4BParams(
        context_in_dim=CONTEXT, hidden_size=HIDDEN, num_heads=2, depth=1, depth_single_blocks=2, axes_dim=[8] * 4
    )
    flux2_utils.FLUX2_MODEL_INFO["klein-base-4b"] = dataclasses.replace(info, params=params)
    load = flux2_utils.load_flow_model
    flux2_utils.load_flow_model = lambda *args, **kwargs: load(*args, **kwargs).float()


def write_model(file: Path) -> Path:
    import torch
    from musubi_tuner.flux_2 import flux2_models, flux2_utils
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = flux2_models.Flux2(flux2_utils.FLUX2_MODEL_INFO["klein-base-4b"].params, "torch", False)
        save_file(model.state_dict(), file)
    return file


def write_dataset(folder: Path, groups: list[list[str]], sizes: list[tuple[int, int]]) -> Path:
    """Caches as the host's own scripts write them, and the images they belong to. groups: the levels of each.

    Returns the dataset TOML, with a dataset for each level. The channel 0 of a slice's latents is its number.
    """
    import torch
    from musubi_tuner.dataset import cache_io
    from musubi_tuner.dataset.image_video_dataset import ItemInfo
    from PIL import Image

    arch, full = "f2k4b", "flux_2_klein_4b"
    levels = sorted({level for group in groups for level in group})
    number = 0
    for index, group in enumerate(groups):
        for level in group:
            images, caches = folder / f"1_{level}", folder / "cache" / level
            images.mkdir(parents=True, exist_ok=True)
            caches.mkdir(parents=True, exist_ok=True)
            width, height = sizes[(index + levels.index(level)) % len(sizes)]
            Image.new("RGB", (width, height), (index * 7 % 255, 90, 120)).save(images / f"{index:02}.png")
            (images / f"{index:02}.txt").write_text(f"{index} {level}")
            item = ItemInfo(f"{index:02}", "", (width, height), (width, height))
            item.latent_cache_path = str(caches / f"{index:02}_{width:04}x{height:04}_{arch}.safetensors")
            item.text_encoder_output_cache_path = str(caches / f"{index:02}_{arch}_te.safetensors")
            random = torch.Generator().manual_seed(number)
            latents = torch.randn(128, height // 16, width // 16, generator=random)
            latents[0] = number
            cache_io.save_latent_cache_flux_2(item, latents, None, full)
            context = torch.randn(4, CONTEXT, generator=random)
            cache_io.save_text_encoder_output_cache_flux_2(item, context, full)
            number += 1
    lines = ["[general]", 'caption_extension = ".txt"', "enable_bucket = true", "bucket_no_upscale = true", ""]
    for level in levels:
        lines += [
            "[[datasets]]",
            f'image_directory = "{folder}/1_{level}"',
            f'cache_directory = "{folder}/cache/{level}"',
        ]
        lines += ["resolution = [256, 256]", "batch_size = 2", ""]
    file = folder / "dataset_musubi.toml"
    file.write_text("\n".join(lines))
    return file


def arguments(model: Path, dataset: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return {
        "dit": str(model),
        "vae": "none",
        "text_encoder": "none",
        "model_version": "klein-base-4b",
        "dataset_config": str(dataset),
        "output_dir": str(out),
        "output_name": "tiny",
        "network_module": "networks.lora_flux_2",
        "network_dim": 4,
        "network_alpha": 4,
        "optimizer_type": "AdamW",
        "learning_rate": 1e-2,
        "timestep_sampling": "flux2_shift",
        "weighting_scheme": "none",
        "sdpa": True,
        "seed": 7,
        "max_data_loader_n_workers": 0,
        "max_train_epochs": 2,
        **changes,
    }


def words(options: dict[str, Any]) -> list[str]:
    given = {key: value for key, value in options.items() if value not in (None, False)}
    return [word for key, value in given.items() for word in (f"--{key}", *([] if value is True else [str(value)]))]


def describe(batch: dict[str, Any]) -> dict[str, Any]:
    latents = batch["latents"]
    return {"ids": [round(x) for x in latents.flatten(1)[:, 0].tolist()], "shape": tuple(latents.shape)}


def main() -> None:
    source, jobs = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    host = Path(__file__).parents[1] / "host" / "run.py"
    spec = importlib.util.spec_from_file_location("host_run", host)
    recording = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recording)
    os.environ.update(recording.OFFLINE)
    import torch
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer
    from accelerate.state import AcceleratorState, GradientState, PartialState

    torch.set_num_threads(1)
    torch.cuda.current_device = lambda: 0  # some families ask for it while they are imported
    sys.path[:] = [str(source), *sys.path[1:], str(Path(__file__).parents[2])]
    shrink_host()
    recording.describe = describe
    stock = Accelerator.__init__, AcceleratedOptimizer.step
    for job in jobs:
        if "write" in job:
            folder = Path(job["write"])
            folder.mkdir(parents=True, exist_ok=True)
            write_model(folder / "flux2.safetensors")
            write_dataset(folder / "data", job["groups"], [tuple(size) for size in job["sizes"]])
            continue
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
        Accelerator.__init__, AcceleratedOptimizer.step = stock
        recorder = recording.Recorder()
        if job.get("record"):
            recorder.install()
        print(f"== {job['door']} {job['args'].get('output_dir')}", flush=True)
        try:
            run(job, source)
        except SystemExit as end:
            if end.code not in (0, job.get("status", 0)):
                raise
        if job.get("record"):
            torch.save(recorder.events, job["record"])


def run(job: dict[str, Any], source: Path) -> None:
    script = job.get("script", SCRIPT)
    if job["door"] == "stock":
        sys.argv = [f"{script}.py", *words(job["args"])]
        importlib.import_module(f"musubi_tuner.{script}").main()
    else:
        from sga_kohya.hosts.musubi.run import main as door

        status = door([script, "--musubi_tuner", str(source.parent), *words(job["args"])])
        if status != job.get("status", 0):
            raise RuntimeError(f"exit status {status}")


if __name__ == "__main__":
    main()
