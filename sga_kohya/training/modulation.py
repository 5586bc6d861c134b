"""Modulation by granularity: noise levels of flow-matching models (Eq. 29-31), weights of U-Nets' losses (Eq. 32-33).

The host samples noise levels in its own way; then sigma moves by Delta in logit space and the sample is re-noised.
Every mode of the hosts is additive in logit space, so this equals Eq. 30-31 in each. Outside a training step nothing
changes.
"""

import functools
import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from sga_kohya.config import SgaConfig
from sga_kohya.equations.timesteps import renoise, shift_logit
from sga_kohya.equations.weights import flow_snr, min_snr_weight
from sga_kohya.errors import SgaError
from sga_kohya.training.events import Draw, Noised, Part, Run
from sga_kohya.tuples.step import SubBatch
from sga_kohya.words import SNR_GAMMA, UPSTREAM

logger = logging.getLogger(__name__)

SNR_WEIGHT = "SNR weight"
"""The event of a U-Net's host asking for the weight of its loss."""


class Modulation(Part):
    """kind: the option that modulates this model, timestep_shift or snr_gamma; empty until the run has started."""

    def __init__(self, config: SgaConfig):
        self.config = config
        self.kind = ""

    def started(self, run: Run) -> None:
        self.kind = run.modulation
        if self.kind == SNR_GAMMA:
            self.needs = frozenset({SNR_WEIGHT})

    def moves(self, draw: Draw) -> bool:
        return self._delta(draw) is not None

    def noised(self, batch: Noised) -> None:
        draw, sigma = batch.draw, batch.sigma
        delta = self._delta(draw)
        if delta is None:
            return
        delta = delta.to(sigma.device)
        if (draw.low, draw.high) == (0.0, 1.0):
            batch.x = renoise(batch.x, batch.latents, batch.column(sigma), batch.column(delta))
            batch.sigma = shift_logit(sigma, delta)
            return
        span = draw.high - draw.low
        batch.sigma = draw.low + span * shift_logit((sigma - draw.low) / span, delta)
        level = batch.column(batch.sigma)
        batch.x = level * batch.noise + (1 - level) * batch.latents

    def metadata(self) -> dict[str, str]:
        return {"ss_sga_modulated_by": self.kind} if self.kind else {}

    def snr_weight(
        self, granularities: Sequence[str | None], snr: Tensor, v_prediction: bool, others: Tensor
    ) -> Tensor:
        """Eq. 33. snr: (B,), at least 0. others: (B,), the weight of samples without a Gamma. Returns (B,)."""
        table = self.config.snr_gamma
        named = torch.tensor([(label or "") in table for label in granularities], device=others.device)
        gammas = torch.tensor([table.get(label or "", 1.0) for label in granularities])
        return torch.where(named, min_snr_weight(snr, gammas, v_prediction).to(others), others)

    def _delta(self, draw: Draw) -> Tensor | None:
        """What moves each sample's logit, (B,), or None where nothing moves.

        On the CPU, so that asking whether there is any Delta does not wait for the GPU.
        """
        if draw.sub_batch is None or draw.weighted or draw.high <= draw.low:
            return None
        delta = torch.tensor([self.config.delta(label) for label in draw.sub_batch.granularities])
        if self.config.timestep_shift_form == UPSTREAM:
            delta = delta * draw.scale  # sigmoid(s * (z + Delta)); modes without an s were refused
        if draw.offsets is not None:
            taken = draw.offsets.to(delta.device) != 0
            if bool((taken & (delta != 0)).any()):
                _announce_hosts_offset()
            delta = torch.where(taken, torch.zeros_like(delta), delta)
        return delta if delta.any() else None


class FlowWeight(Part):
    """Min-SNR by granularity for flow matching (--sga_flow_snr_weight): SNR = ((1 - sigma) / sigma)^2."""

    needs = frozenset({"noised", "weighed"})

    def __init__(self, config: SgaConfig):
        self.table = config.snr_gamma

    def weighed(self, batch: Noised | None, sub_batch: SubBatch, loss: Tensor) -> Tensor:
        if batch is None:
            return loss
        if loss.ndim == 0:
            raise SgaError("sga_flow_snr_weight weights each sample, but this script averages its loss by itself")
        # Infinite for a label without Gamma, whose weight is 1.
        gamma = torch.tensor([self.table.get(label or "", torch.inf) for label in sub_batch.granularities])
        weight = min_snr_weight(flow_snr(batch.sigma.float()), gamma)
        return loss * weight.to(loss).view(-1, *[1] * (loss.ndim - 1))


@functools.cache
def _announce_hosts_offset() -> None:
    logger.warning(
        "subsets with custom_attributes timestep_sampling.offset keep sd-scripts' own offset; "
        "sga_timestep_shift applies to the other subsets only"
    )
