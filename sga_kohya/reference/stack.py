"""A network and all that stands round it, between captions and images."""

from dataclasses import dataclass
from typing import Any

from sga_kohya.reference.denoiser import Denoiser
from sga_kohya.reference.family import Family, line_mu
from sga_kohya.reference.latents import Codec
from sga_kohya.reference.text import TextEncoder


@dataclass
class Stack:
    """All that turns captions into images.

    scheduler: diffusers' Euler for flow matching, a PathScheduler, or DDIM; its config says what the model predicts.
    """

    denoiser: Denoiser
    codec: Codec
    text: TextEncoder
    scheduler: Any

    @property
    def multiple(self) -> int:
        """Sides of an image must be multiples of this."""
        return self.codec.factor * self.family.multiple(self.denoiser.model.config)

    @property
    def largest(self) -> int | None:
        """Sides of an image must not be longer than this; None for any."""
        side = self.family.largest(self.denoiser.model.config)
        return None if side is None else self.codec.factor * side

    @property
    def family(self) -> Family:
        return self.denoiser.family

    def training_mu(self, height: int, width: int) -> float:
        """mu_res of Eq. 31 for latents of that size; 0 where the model's scheduler does not shift by resolution."""
        shifts, config = self.scheduler.config.use_dynamic_shifting, self.scheduler.config
        return line_mu(config, self._tokens(height, width)) if shifts else 0.0

    def sampling_mu(self, height: int, width: int, steps: int) -> float | None:
        """What the scheduler is told of latents of that size; nothing where it does not shift by resolution."""
        shifts, config = self.scheduler.config.use_dynamic_shifting, self.scheduler.config
        return self.family.sampling_mu(config, self._tokens(height, width), steps) if shifts else None

    def _tokens(self, height: int, width: int) -> int:
        side = self.family.multiple(self.denoiser.model.config)
        return (height // side) * (width // side)
