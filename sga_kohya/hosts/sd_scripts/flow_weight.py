"""Seam: Min-SNR by granularity for flow matching, an option (--sga_flow_snr_weight).

Flow-matching trainers take no SNR weight, so it is applied where each of them turns prediction and target into a loss.
Their SNR is ((1 - sigma) / sigma)^2 of the noise level that the timestep seam has noted for this batch.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sga_kohya.equations.weights import flow_snr, min_snr_weight
from sga_kohya.errors import SgaError
from sga_kohya.hosts.seam import Seam
from sga_kohya.training.session import Session


def _replace(original: Callable, session: Session) -> Callable:
    table = session.config.snr_gamma

    @functools.wraps(original)
    def conditional_loss(
        model_pred: Tensor, target: Tensor, loss_type: str, reduction: str, *more: Any, **options: Any
    ) -> Tensor:
        loss = original(model_pred, target, loss_type, reduction, *more, **options)
        if session.current is None or session.noise_level is None:
            return loss
        if reduction != "none":
            raise SgaError(f"sga_flow_snr_weight weights each sample, but this script reduces by {reduction!r}")
        session.fire("flow SNR weight")
        # Infinite for a label without Gamma, whose weight is 1.
        gamma = torch.tensor([table.get(label or "", torch.inf) for label in session.current.granularities])
        weight = min_snr_weight(flow_snr(session.noise_level.float()), gamma)
        return loss * weight.to(loss).view(-1, *[1] * (loss.ndim - 1))

    return conditional_loss


SEAM = Seam(
    "flow SNR weight",
    "library.train_util.conditional_loss",
    ("model_pred", "target", "loss_type", "reduction"),
    _replace,
)
