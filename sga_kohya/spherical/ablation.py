"""`python -m sga_kohya.spherical ablation OUT`: the paper's modes side by side, class-conditional and from scratch.

The whole method on a small scale: a VAE, its decoder trained anew on projected latents with the encoder frozen, then
one model for each path and seed in the reference trainer, without SGA and without guidance. Linear and shell decode
with the VAE's own decoder, trained as long again on its own latents, so that no path has the better trained decoder.
Every step is skipped when its result lies in OUT, and a run that was cut off goes on where it was.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sga_kohya.config import SgaConfig
from sga_kohya.equations.paths import PATHS
from sga_kohya.errors import SgaError
from sga_kohya.kit.files import whole_file, write_whole
from sga_kohya.kit.intervals import student
from sga_kohya.kit.text import UNDEFINED, numeral
from sga_kohya.reference.models import make_stack
from sga_kohya.reference.options import RunOptions
from sga_kohya.reference.sample import sample
from sga_kohya.reference.stack import Stack
from sga_kohya.reference.trainer import Trainer
from sga_kohya.spherical import crops, decoder, frechet, measures
from sga_kohya.spherical.images import save_grid
from sga_kohya.spherical.perceptual import rmse
from sga_kohya.spherical.reconstruction import reconstruct
from sga_kohya.spherical.tokenizer import train_tokenizer

BATCH, SAMPLER_STEPS = 64, 20
QUICK = {"seeds": 2, "steps": 20, "tokenizer_steps": 60, "samples": 140, "width": 64}


@dataclass(frozen=True)
class AblationOptions:
    """The command line's options of the same names; see __main__.py. quick: QUICK in place of what it names."""

    out: Path
    quick: bool = False
    images: Path | None = None
    seeds: int = 3
    steps: int = 1000
    tokenizer_steps: int = 1000
    samples: int = 1024
    width: int = 64


def run(options: AblationOptions) -> str:
    """Everything that OUT lacks, then the table, which OUT/ablation.json and table.txt hold too."""
    if options.quick:
        options = AblationOptions(**{**asdict(options), **QUICK})
    if options.samples <= frechet.FEATURES:
        raise SgaError(f"--samples {options.samples}: more than {frechet.FEATURES} are needed for the covariance")
    _check_same(options)
    classes = crops.class_folders(options.images, options.out)
    per_class = max(64, math.ceil(options.samples / len(classes)))
    dataset = crops.write_crops(classes, options.out / "data", 4 * per_class, BATCH)
    real = crops.draw_crops(classes, per_class, seed=1)
    vae = train_tokenizer(
        crops.draw_crops(classes, 4 * per_class, seed=0), options.out / "vae", options.tokenizer_steps
    )
    plain, tuned = (_tune_decoder(vae, spherical, options) for spherical in (False, True))
    decoders = {name: tuned if path.spherical else plain for name, path in PATHS.items()}
    network = frechet.feature_network()
    truth = frechet.statistics(real, network)
    found: dict[str, Any] = {
        "classes": list(classes),
        "vae": _describe(plain, tuned, real, truth, network),
        "distance": {},
    }
    for seed in range(options.seeds):
        for name in PATHS:
            torch.manual_seed(seed)
            images = _images(name, seed, dataset, decoders[name], list(classes), options)
            distance = frechet.frechet_distance(frechet.statistics(images, network), truth)
            found["distance"].setdefault(name, []).append(distance)
            save_grid(list(images[:40].view(5, 8, *images.shape[1:])), options.out / f"{name}-{seed}.png")
    text = table(found, options)
    write_whole(options.out / "ablation.json", json.dumps(found, indent=1))
    write_whole(options.out / "table.txt", text + "\n")
    return text


def table(found: dict[str, Any], options: AblationOptions) -> str:
    """Mean and 95 % interval of each path over seeds, and of its difference from linear under equal seeds."""
    vae = found["vae"]
    lines = [
        f"{len(found['classes'])} classes of 32x32 crops, {options.steps} steps of {BATCH}, {options.samples} samples, "
        f"{options.seeds} seed{'s' if options.seeds > 1 else ''}, no guidance",
        f"VAE with d = {vae['channels']}: norm CV {numeral(vae['norm_cv'], '.2f')}, mean norm / sqrt(d) "
        f"{numeral(vae['mean_norm_over_sqrt_d'], '.2f')}, radius / direction swap {numeral(vae['swap_share'], '.2f')}",
        f"{'path':<18}{'distance':>10}{'95 % interval':>20}{'minus linear':>14}{'95 % interval':>20}",
    ]
    linear = np.array(found["distance"]["linear"])
    for name, values in found["distance"].items():
        against = np.array(values) - linear
        row = f"{name:<18}{numeral(np.mean(values), '.3f'):>10}{_interval(values):>20}"
        row += f"{numeral(against.mean(), '.3f'):>14}{_interval(against):>20}" if name != "linear" else ""
        lines.append(row)
    lines += [
        f"{'(VAE, unprojected)':<20}{numeral(vae['reconstruction'], '.3f'):>8}   floor of linear and shell",
        f"{'(VAE, projected)':<20}{numeral(vae['reconstruction_projected'], '.3f'):>8}   floor of the spherical paths",
        "distance: as FID, on fixed random convolutional features, which need no download. It compares with no FID",
        "elsewhere, and at this size it does not tell how the paths rank on large models. Intervals: Student's t.",
        f"{UNDEFINED}: not defined, because what was drawn or decoded is not finite.",
    ]
    return "\n".join(lines)


def _interval(values: Sequence[float]) -> str:
    found = student(values)
    if not found.known:
        return UNDEFINED
    return f"{found.low:.3f} to {found.high:.3f}" if found.bounded else "needs 2 seeds"


def _tune_decoder(vae: Path, spherical: bool, options: AblationOptions) -> Path:
    """The VAE with its decoder trained on, on projected latents or not; L1 only, as it was trained before."""
    out = options.out / ("decoder-spherical" if spherical else "decoder-vanilla")
    if not (out / "vae" / "config.json").is_file():
        decoder.run(
            decoder.DecoderOptions(
                vae=vae,
                images=options.out / "data",
                out=out,
                spherical=spherical,
                steps=options.tokenizer_steps,
                resolution=crops.SIDE,
                batch_size=32,
                lr=1e-3,
                perceptual="none",
                adversarial=0.0,
                workers=0,
                save_every=200,
                resume=any((out / "checkpoints").glob("step-*[0-9]")),
            )
        )
    return out / "vae"


def _images(name: str, seed: int, dataset: Path, vae: Path, classes: list[str], options: AblationOptions) -> Tensor:
    """Samples of one path and seed, (N, 3, 32, 32), classes in turn; trained first where that is not done."""
    out = options.out / "runs" / f"{name}-{seed}"
    kept = out / "samples.pt"
    if not kept.is_file():
        # float32, as its decoders were trained, so that what a path draws does not depend on the card.
        run = RunOptions(dataset, out, vae=vae, steps=options.steps, seed=seed, width=options.width, save_every=200)
        run = replace(run, mixed_precision="no")
        config = SgaConfig(enabled=False, path=name)
        file = out / "model" / "diffusion_pytorch_model.safetensors"
        if file.is_file():
            stack = make_stack(run, name)
            stack.denoiser.load(file.parent)
        else:
            resume = "latest" if any((out / "checkpoints").glob("step-*[0-9]")) else None
            trainer = Trainer(replace(run, resume=resume), config)
            trainer.run()
            stack = trainer.stack
        with whole_file(kept) as part:
            torch.save(_sample(stack, classes, options.samples, seed, name), part)
    return torch.load(kept, weights_only=True)


def _sample(stack: Stack, classes: list[str], count: int, seed: int, name: str) -> Tensor:
    captions = [classes[number % len(classes)] for number in range(count)]
    images = []
    for start in tqdm(range(0, count, 128), desc=f"samples {name}", unit="batch"):
        some = captions[start : start + 128]
        images.append(sample(stack, some, (crops.SIDE, crops.SIDE), SAMPLER_STEPS, seed=seed * 1000 + start))
    return torch.cat(images)


@torch.no_grad()
def _describe(vae: Path, tuned: Path, real: Tensor, truth: Any, network: Any) -> dict[str, Any]:
    """How the tokenizer's latents lie, and how far its reconstructions are from the real images."""
    from sga_kohya.spherical.autoencoders import load_autoencoder

    stock, new = load_autoencoder(vae, None), load_autoencoder(tuned, None)
    latents = stock.encode(real[torch.randperm(len(real), generator=torch.Generator().manual_seed(0))[:256]])
    swap, _ = measures.component_swap(latents, stock.decode, {"pixels": rmse})
    floors = [reconstruct(one, real, None, projected, 128) for one, projected in ((stock, False), (new, True))]
    plain, projected = (frechet.frechet_distance(frechet.statistics(r.images, network), truth) for r in floors)
    return {
        **measures.norms(latents),
        "channels": stock.channels,
        "swap_share": swap["pixels"]["radius"] / swap["pixels"]["direction"],
        "reconstruction": plain,
        "reconstruction_projected": projected,
        "PSNR": [r.figures["PSNR"] for r in floors],
    }


def _check_same(options: AblationOptions) -> None:
    """Raises SgaError when OUT holds an ablation of other settings; more seeds are welcome."""
    file = options.out / "settings.json"
    now = {key: str(value) for key, value in asdict(options).items() if key not in ("out", "seeds")}
    if file.is_file():
        then = json.loads(file.read_text(encoding="utf-8"))
        changed = [f"{key} was {then.get(key)}, now {now[key]}" for key in now if then.get(key) != now[key]]
        if changed:
            raise SgaError(f"{options.out}: {'; '.join(changed)}; go on with the same settings, or name another folder")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(now, indent=1))
