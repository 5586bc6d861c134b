"""Algorithm 2 of arXiv:2603.10785 in one file: tuple steps, granularity-dependent noise, one update a step.

The loop is `Trainer.run`, a sub-batch `Trainer.train_on`. What a tuple step is comes from tuples/, the maths from
equations/; the same code serves the seams into sd-scripts. All randomness of a step is a function of seed, process and
step, so a run resumes exactly.
"""

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from sga_kohya.config import SgaConfig
from sga_kohya.equations.paths import PATHS
from sga_kohya.errors import SgaError
from sga_kohya.reference import models, precision, runs
from sga_kohya.reference.data import SliceDataset
from sga_kohya.reference.objectives import Diffusion, FlowMatching, Noised, Objective, slice_losses
from sga_kohya.reference.options import RunOptions
from sga_kohya.reference.sample import sample, save_images
from sga_kohya.reference.stack import Stack
from sga_kohya.tuples.accelerator import TupleAccelerator
from sga_kohya.tuples.split import attach
from sga_kohya.tuples.step import SubBatch
from sga_kohya.words import UNLABELLED

MAX_GRAD_NORM = 1.0
SAMPLES = 4


@dataclass
class Spent:
    """What a run cost. model_calls: forward and backward passes. slices: images through the model in all of them."""

    steps: int = 0
    model_calls: int = 0
    slices: int = 0
    seconds: float = 0.0


class Trainer:
    """One run. observe(sub_batch, timesteps (B,), losses (B,)) is called after each model call, on this process.

    Raises SgaError before long work for what the user can correct.
    """

    def __init__(
        self,
        options: RunOptions,
        config: SgaConfig,
        observe: Callable[[SubBatch, Tensor, Tensor], None] = lambda sub_batch, timesteps, losses: None,
    ):
        self.config, self.observe = config, observe
        if (options.steps is None) == (options.epochs is None):
            raise SgaError("say how long to train: either --steps or --epochs")
        self.dataset = SliceDataset(options.dataset_config, config, options.batch_size, options.seed)
        # The network has an autocast of its own, so that it computes alike wherever it is used.
        self.accelerator = TupleAccelerator(mixed_precision="no", log_with="tensorboard", project_dir=options.out)
        words = precision.chosen(options.mixed_precision, self.accelerator.device)
        self.options = options = replace(options, mixed_precision=words)
        checkpoint = runs.find(options, config)
        self.stack = models.make_stack(options, config.path)
        self.dataset.check_sizes(self.stack.multiple, self.stack.largest)
        self.objective = make_objective(self.stack, config)
        trained = [p for p in self.stack.denoiser.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=options.lr)
        self.step = runs.restore(checkpoint, self.stack.denoiser, optimizer) if checkpoint else 0
        # Ranks share an epoch's tuple steps; accelerate fills up the last round.
        self.steps_per_epoch = -(-len(self.dataset) // self.accelerator.num_processes)
        self.steps = options.steps or (options.epochs or 0) * self.steps_per_epoch
        if self.step >= self.steps:
            raise SgaError(f"the run in {options.out} is at step {self.step} already: ask for more than {self.steps}")
        # The encoders are done and gone before the network comes onto the device.
        device, quiet = self.accelerator.device, not self.accelerator.is_main_process
        self.dataset.encode(self.stack.codec, self.stack.text, device, quiet)
        loader = DataLoader(self.dataset, batch_size=1, collate_fn=itemgetter(0))
        self.denoiser, self.optimizer, self.loader = self.accelerator.prepare(self.stack.denoiser, optimizer, loader)
        self.accelerator.cursor.step = self.step
        attach(
            self.accelerator,
            config,
            options.out / "interference.jsonl",
            lambda figures: self.accelerator.log(figures, step=self.step + 1),
        )

    def run(self) -> Spent:
        """Train to the end, save, and say what was spent."""
        self.accelerator.init_trackers("logs")
        spent, started, losses = Spent(), time.perf_counter(), defaultdict(list)
        bar = tqdm(total=self.steps, initial=self.step, unit="step", disable=not self.accelerator.is_main_process)
        for batch, generator in self.batches():
            sub_batch, noised, loss = self.train_on(batch, generator)
            spent.model_calls += 1
            spent.slices += len(loss)
            self.observe(sub_batch, noised.timesteps, loss)
            for label, value in zip(sub_batch.granularities, loss.tolist(), strict=True):
                losses[label or UNLABELLED].append(value)
            if self.accelerator.sync_gradients:
                self.step += 1
                spent.steps += 1
                bar.update()
                self._after_step(bar, losses)
                losses.clear()
        bar.close()
        self.save()
        self._publish()
        self.accelerator.end_training()
        spent.seconds = time.perf_counter() - started
        return spent

    def train_on(self, batch: dict[str, Any], generator: torch.Generator) -> tuple[SubBatch, Noised, Tensor]:
        """One sub-batch of Algorithm 2: accumulate its share of Eq. 6, and update after the last of its tuple step."""
        with self.accelerator.accumulate(self.denoiser):
            sub_batch = cast(SubBatch, self.accelerator.current)
            noised, loss = self.losses(batch, sub_batch, generator)
            self.accelerator.backward(loss.mean())  # times the sub-batch's weight: the step's gradient is Eq. 6
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.denoiser.parameters(), MAX_GRAD_NORM)
            self.optimizer.step()  # these two do nothing until gradients are in sync
            self.optimizer.zero_grad()
        return sub_batch, noised, loss.detach()

    def batches(self) -> Iterator[tuple[dict[str, Any], torch.Generator]]:
        """The remaining sub-batches in order, each with its tuple step's generator, from wherever the cursor is."""
        while self.step < self.steps:
            epoch, position = divmod(self.step, self.steps_per_epoch)
            self.dataset.seek(epoch, position * self.accelerator.num_processes)
            begun = None
            for batch in self.loader:
                if self.step == self.steps:
                    return
                if begun != self.step:
                    begun, generator = self.step, self.seeded(self.step)
                yield batch, generator

    def seeded(self, step: int) -> torch.Generator:
        """The generator of a step's noise levels and noise; also seeds torch, for models with dropout."""
        rng = random.Random(f"{self.options.seed}/{self.accelerator.process_index}/{step}")
        torch.manual_seed(rng.getrandbits(63))
        return torch.Generator().manual_seed(rng.getrandbits(63))

    def losses(self, batch: dict[str, Any], sub_batch: SubBatch, generator: torch.Generator) -> tuple[Noised, Tensor]:
        """What the sub-batch was noised to, and the loss of each of its slices, (B,)."""
        device = self.accelerator.device
        latents, text = batch["latents"].to(device), batch["text"].to(device)
        noised = self.objective(latents, sub_batch.granularities, generator)
        return noised, slice_losses(self.denoiser(noised.noisy, noised.timesteps, *text), noised)

    def save(self) -> None:
        """A checkpoint of the current step."""
        if self.accelerator.is_main_process:
            runs.save(self.options, self.config, self.step, self.stack.denoiser, self.optimizer, self.metadata())
        self.accelerator.wait_for_everyone()

    def metadata(self) -> dict[str, str]:
        """The header of saved weights."""
        options = self.options
        facts = {"trainer": "sga_kohya.reference", "arch": options.arch, "steps": self.step, "seed": options.seed}
        facts |= {"learning_rate": options.lr, "sd_model_name": options.model or "from scratch"}
        facts["mixed_precision"] = options.mixed_precision
        texts = {f"ss_{key}": str(value) for key, value in facts.items()}
        return {**texts, **self.config.metadata(), **self.dataset.planner.metadata()}

    def _after_step(self, bar: tqdm, losses: dict[str, list[float]]) -> None:
        means = {f"loss/{label}": sum(values) / len(values) for label, values in sorted(losses.items())}
        bar.set_postfix({key.removeprefix("loss/"): f"{value:.3f}" for key, value in means.items()}, refresh=False)
        self.accelerator.log(means, step=self.step)
        if self.options.save_every and self.step % self.options.save_every == 0:
            self.save()
        if self.options.sample_every and self.step % self.options.sample_every == 0:
            self._draw()

    def _publish(self) -> None:
        """The trained weights under a name that stays, and samples."""
        if self.accelerator.is_main_process:
            folder = self.options.out / "model"
            with runs.saving(self.options.out):
                folder.mkdir(parents=True, exist_ok=True)
                self.stack.denoiser.save(folder, self.metadata())
                self.stack.denoiser.save_for_diffusers(folder, self.metadata())
            self._draw()

    def _draw(self) -> None:
        if self.accelerator.is_main_process:
            captions, sizes = self.dataset.captions, self.dataset.sizes
            size = next(iter(sizes.values()))
            chosen = [captions[key] for key in sizes if sizes[key] == size][:SAMPLES]
            images = sample(self.stack, chosen, size, seed=self.options.seed)
            save_images(images, self.options.out / "samples", f"step-{self.step:08d}")


def make_objective(stack: Stack, config: SgaConfig) -> Objective:
    """Flow matching or diffusion, as the family learns, each with its modulation if the settings say so."""
    if stack.family.flow:
        shift = config.timestep_shift if config.modulates else {}
        return FlowMatching(shift, stack.training_mu, PATHS[config.path])
    return Diffusion(stack.scheduler, config.snr_gamma if config.modulates else {})
