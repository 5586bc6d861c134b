"""`python -m sga_kohya.spherical decoder VAE IMAGES OUT`: train a decoder on projected latents, its encoder frozen.

L1 + LPIPS + patch-adversarial hinge loss, no KL (arXiv:2605.15193). The latents are pi of the posterior's mean, so they
are what a spherical model samples. Works under `accelerate launch -m`. What a step sees is a function of seed, process
and step alone, so that a resumed run equals an uninterrupted one.
"""

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from sga_kohya.equations.paths import project
from sga_kohya.errors import SgaError
from sga_kohya.kit.files import whole_folder, write_whole
from sga_kohya.spherical.adversarial import PatchDiscriminator, adversarial, hinge
from sga_kohya.spherical.autoencoders import load_autoencoder
from sga_kohya.spherical.images import find_images, load_square, load_squares, save_grid
from sga_kohya.spherical.perceptual import load_lpips
from sga_kohya.spherical.reconstruction import reconstruct, table
from sga_kohya.version import __version__

SHOWN = 6
BETAS = (0.5, 0.9)  # of both Adams, as is usual for adversarial autoencoders


@dataclass(frozen=True)
class DecoderOptions:
    """The command line's options of the same names; see __main__.py."""

    vae: Path
    images: Path
    out: Path
    steps: int
    kind: str | None = None
    spherical: bool = True
    resolution: int = 256
    batch_size: int = 4
    lr: float = 1e-4
    perceptual: str = "lpips"
    adversarial: float = 0.1
    held_out: int = 16
    workers: int = 2
    save_every: int = 1000
    seed: int = 0
    resume: bool = False
    sd_scripts: str | None = None


# What may differ between an interrupted run and the one that resumes it.
_FREE = {"out", "steps", "workers", "save_every", "resume", "sd_scripts"}


class _Steps(Dataset):
    """Item: the batch of a step, (B, 3, size, size), for this process."""

    def __init__(self, files: Sequence[Path], options: DecoderOptions, rank: int):
        self.files, self.options, self.rank = files, options, rank

    def __len__(self) -> int:
        return self.options.steps

    def __getitem__(self, step: int) -> Tensor:
        options = self.options
        rng = random.Random(f"{options.seed}/{self.rank}/{step}")
        chosen = rng.choices(self.files, k=options.batch_size)
        return torch.stack([load_square(path, options.resolution, rng) for path in chosen])


class DecoderTrainer:
    """One run. Raises SgaError before long work for what the user can correct."""

    def __init__(self, options: DecoderOptions):
        self.options = options
        self.checkpoint = find_checkpoint(options)
        files = find_images(options.images)
        random.Random(options.seed).shuffle(files)
        held = min(options.held_out, len(files) // 3)
        if held == 0:
            raise SgaError(f"{options.images} holds {len(files)} images: give three or more, one is only measured")
        self.lpips = self._load_lpips()
        self.autoencoder = load_autoencoder(options.vae, options.kind, options.sd_scripts)
        if options.resolution % self.autoencoder.factor:
            raise SgaError(f"--resolution {options.resolution}: this VAE needs a multiple of {self.autoencoder.factor}")
        self.held, self.files = load_squares(files[:held], options.resolution), files[held:]
        self.accelerator = Accelerator()
        self.autoencoder.to(self.accelerator.device)
        if self.lpips is not None:
            self.lpips.to(self.accelerator.device)
        torch.manual_seed(options.seed)
        self.decoding = self.autoencoder.decoding().requires_grad_(True)
        self.discriminator = PatchDiscriminator().to(self.accelerator.device)
        self.optimizers = [
            torch.optim.Adam(part.parameters(), lr=options.lr, betas=BETAS)
            for part in (self.decoding, self.discriminator)
        ]

    def run(self) -> str:
        """Train, measure, save. Returns a table and where the result is; on all processes but the first, nothing."""
        options, accelerator = self.options, self.accelerator
        stock = {
            "stock decoder, its own latents": self._reconstruct(spherical=False),
            "stock decoder, projected latents": self._reconstruct(spherical=True),
        }
        start = self._restore()
        # `prepare` may wrap; self.autoencoder and self.discriminator stay the modules inside.
        model, judge, *optimizers = accelerator.prepare(self.autoencoder, self.discriminator, *self.optimizers)
        dataset = _Steps(self.files, options, accelerator.process_index)
        loader = DataLoader(dataset, batch_size=None, sampler=range(start, options.steps), num_workers=options.workers)
        bar = tqdm(total=options.steps, initial=start, unit="step", disable=not accelerator.is_main_process)
        for step, photos in enumerate(loader, start + 1):
            losses = self.step(model, judge, optimizers, photos.to(accelerator.device))
            bar.update()
            bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()}, refresh=False)
            if step % options.save_every == 0 or step == options.steps:
                self._save(step)
        bar.close()
        latents = "projected" if options.spherical else "its own"
        rows = {**stock, f"after {options.steps} steps, {latents} latents": self._reconstruct(options.spherical)}
        text = ""
        if accelerator.is_main_process:
            facts = {
                "sga_decoder": "spherical" if options.spherical else "vanilla",
                "sga_decoder_steps": options.steps,
                "sga_decoder_of": options.vae.name,
            }
            facts |= {"sga_version": __version__}
            target = self.autoencoder.save(options.out, {key: str(value) for key, value in facts.items()})
            save_grid(
                [row[:SHOWN] for row in (self.held, *(r.images for r in rows.values()))], options.out / "rows.png"
            )
            report = {"options": _texts(options), "reconstruction": {name: r.figures for name, r in rows.items()}}
            write_whole(options.out / "decoder.json", json.dumps(report, indent=1))
            text = f"{table(rows)}\nsaved: {target}"
        accelerator.wait_for_everyone()
        return text

    def step(self, model: Any, judge: Any, optimizers: Sequence[Any], photos: Tensor) -> dict[str, float]:
        """One update of the decoder, then one of the discriminator. images: (B, 3, H, W) in [-1, 1]."""
        options, accelerator = self.options, self.accelerator
        with torch.no_grad():
            latents = self.autoencoder.encode(photos)
            latents = project(latents) if options.spherical else latents
        images = model(latents).float()
        losses = {"L1": (images - photos).abs().mean()}
        total = losses["L1"]
        if self.lpips is not None:
            losses["LPIPS"] = self.lpips(images, photos).mean()  # its weights are frozen, its gradient is wanted
            total = total + losses["LPIPS"]
        if options.adversarial:
            losses["adversarial"] = adversarial(self.discriminator(images))
            total = total + options.adversarial * losses["adversarial"]
        accelerator.backward(total)
        optimizers[0].step()
        optimizers[0].zero_grad()
        if options.adversarial:
            optimizers[1].zero_grad()  # what the decoder's loss left there
            real, fake = judge(torch.cat([photos, images.detach()])).chunk(2)
            losses["discriminator"] = hinge(real, fake)
            accelerator.backward(losses["discriminator"])
            optimizers[1].step()
            optimizers[1].zero_grad()
        return {name: value.item() for name, value in losses.items()}

    def _load_lpips(self) -> Any:
        if self.options.perceptual == "none":
            return None
        try:
            return load_lpips("vgg")
        except SgaError as error:
            raise SgaError(f"{error}: or train without it by --perceptual none, for softer pictures") from None

    def _reconstruct(self, spherical: bool) -> Any:
        return reconstruct(self.autoencoder, self.held, self.lpips, spherical, self.options.batch_size)

    def _save(self, step: int) -> None:
        """OUT/checkpoints/step-N, a folder that is whole or not there; the one before goes then."""
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        folder = self.options.out / "checkpoints" / f"step-{step:08d}"
        state = {
            "decoder": self.decoding.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        with whole_folder(folder) as part:
            torch.save(state, part / "state.pt")
            write_whole(part / "run.json", json.dumps({"step": step, **_texts(self.options)}, indent=1))
        # What was copied to another name, or is not a run's, stays.
        for other in folder.parent.glob("step-" + "[0-9]" * 8):
            if other != folder and (other / "run.json").is_file():
                shutil.rmtree(other)

    def _restore(self) -> int:
        """Returns the step to begin with."""
        if self.checkpoint is None:
            return 0
        state = torch.load(self.checkpoint / "state.pt", map_location="cpu", weights_only=True)
        self.decoding.load_state_dict(state["decoder"])
        self.discriminator.load_state_dict(state["discriminator"])
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        return int(json.loads((self.checkpoint / "run.json").read_text(encoding="utf-8"))["step"])


def run(options: DecoderOptions) -> str:
    """Train a decoder. Returns what to print at the end."""
    return DecoderTrainer(options).run()


def find_checkpoint(options: DecoderOptions) -> Path | None:
    """What to resume from, None for a new run. Raises SgaError when it is missing or of other settings."""
    folder = options.out / "checkpoints"
    known = sorted(folder.glob("step-*[0-9]"))
    if not options.resume:
        if known:
            raise SgaError(f"{options.out} already holds a run: add --resume, or name another folder")
        return None
    if not known:
        raise SgaError(f"--resume: no checkpoint in {folder}; leave it out to begin")
    then, now = json.loads((known[-1] / "run.json").read_text(encoding="utf-8")), _texts(options)
    changed = [f"{key} was {then.get(key)}, now {now[key]}" for key in now if then.get(key) != now[key]]
    if changed:
        raise SgaError(f"--resume: {'; '.join(changed)}; resume with the same settings")
    # A run that was cut off after its last step still has to measure and save.
    if then["step"] > options.steps:
        raise SgaError(f"the run in {options.out} is at step {then['step']} already: ask for more than {options.steps}")
    return known[-1]


def _texts(options: DecoderOptions) -> dict[str, str]:
    return {key: str(value) for key, value in asdict(options).items() if key not in _FREE}
