"""A part for a run that only looks: noise levels are set, predictions handed out, and nothing is trained.

The host loads models, adapter and data and calls its model as when it trains. Its backward passes and optimizer steps
do nothing. `Enough` ends the run.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sga_kohya.equations.interference import GaussianPath
from sga_kohya.errors import SgaError
from sga_kohya.training.events import Draw, Noised, Part
from sga_kohya.training.session import Session
from sga_kohya.tuples.step import SubBatch


class Enough(Exception):
    """Everything is measured. Not an error."""


@dataclass
class Seen:
    """One batch. latents, noise, x, prediction: (B, C, ...), as in x = mean z + std eps; path: per sample, on the CPU.

    prediction: what `path` predicts, float32, with the graph that leads to the trained parameters.
    """

    sub_batch: SubBatch
    latents: Tensor
    noise: Tensor
    x: Tensor
    path: GaussianPath
    prediction: Tensor


class Look(Part):
    """level(): the noise level of the batch in hand, in (0, 1]. observe: gets each batch before anything is trained."""

    needs = frozenset({"noised", "compared"})

    def __init__(self, session: Session, level: Callable[[], float], observe: Callable[[Session, Seen], None]):
        self.session, self.level, self.observe = session, level, observe
        self.prediction: Tensor | None = None

    def moves(self, draw: Draw) -> bool:
        return True

    def noised(self, batch: Noised) -> None:
        sigma = torch.full((len(batch.latents),), self.level())
        path = self._path(batch, sigma)
        batch.noise = torch.randn_like(batch.latents)  # the theory's, without a host's offsets
        mean, std = (batch.column(part.to(batch.latents)) for part in (path.mean, path.std))
        batch.x, batch.sigma = mean * batch.latents + std * batch.noise, sigma.to(batch.latents.device)

    def compared(self, batch: Noised, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        plain = prediction if batch.offset is None else prediction - batch.offset
        self.prediction = batch.sign * plain.float()
        return prediction, target

    def weighed(self, batch: Noised | None, sub_batch: SubBatch, loss: Tensor) -> Tensor:
        if batch is None or self.prediction is None:
            raise SgaError("this script draws its noise levels in a way that is not measured: FLUX, SD3 and U-Nets are")
        self._train_nothing()
        latents, noise, x = (part.detach().float() for part in (batch.latents, batch.noise, batch.x))
        prediction, self.prediction = self.prediction, None
        path = self._path(batch, batch.sigma.float().cpu())
        self.observe(self.session, Seen(sub_batch, latents, noise, x, path, prediction))
        return loss.detach()

    @staticmethod
    def _path(batch: Noised, sigma: Tensor) -> GaussianPath:
        if batch.path is None:
            raise SgaError("only what a model predicts itself is measured: train and look at model_prediction_type=raw")
        return batch.path(sigma)

    def _train_nothing(self) -> None:
        """From now on the host's backward passes and optimizer steps do nothing."""
        holder = self.session.accelerator
        if holder is None:
            return
        holder.backward = lambda *args, **kwargs: None  # type: ignore[method-assign]
        for optimizer in holder._optimizers:
            optimizer.step = lambda *args, **kwargs: None
