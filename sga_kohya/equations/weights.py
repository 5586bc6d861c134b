"""Weights of the loss: the tuple objective (Eq. 6) and granularity-adaptive Min-SNR (Eq. 32-33) of arXiv:2603.10785."""

import torch
from torch import Tensor

from sga_kohya.words import REDUCTIONS


def sub_batch_weight(
    loss_weight: float, present: int, levels: int, samples: int, samples_of_level: int, reduction: str = "mean"
) -> float:
    """The factor of one sub-batch's mean loss that makes the accumulated gradient exactly that of Eq. 6.

    L = 1/K * sum_k lambda_k * L_k, where L_k is the mean over all slices of level k in the step. A level whose slices
    fall into several resolution buckets is several sub-batches, each with its share samples / samples_of_level.

    loss_weight: lambda_k. present: K, the levels in this step. levels: how many exist at all. samples: slices in this
    sub-batch. samples_of_level: slices of its level in the step. reduction: "mean" is Eq. 6; "sum" is Algorithm 2 as
    printed, without 1/K; "constant" divides by the number of levels however many are present.
    Raises ValueError for another reduction.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"unknown tuple reduction {reduction!r}: use one of {', '.join(REDUCTIONS)}")
    divisor = {"mean": present, "sum": 1, "constant": levels}[reduction]
    return loss_weight / divisor * samples / samples_of_level


def min_snr_weight(snr: Tensor, gamma: Tensor | float, v_prediction: bool = False) -> Tensor:
    """Eq. 33, Min-SNR with a threshold of its own for each sample.

    epsilon: min(1, gamma / SNR). v-prediction: min(SNR, gamma) / (SNR + 1). At SNR = 0 (zero terminal SNR) these are 1
    and 0, never NaN.

    snr: (B,), at least 0. gamma: (B,) or a number, Gamma(S) of Eq. 32, above 0. Returns (B,), in [0, 1].
    """
    gamma = torch.as_tensor(gamma, dtype=snr.dtype, device=snr.device)
    if v_prediction:
        return torch.minimum(snr, gamma) / (snr + 1)
    # = min(1, gamma / snr) without the division by a zero SNR; an infinite gamma is no threshold.
    return torch.where(torch.isinf(gamma), torch.ones_like(snr), gamma / torch.maximum(snr, gamma))


def flow_snr(sigma: Tensor) -> Tensor:
    """The SNR of a linear path, ((1 - sigma) / sigma)^2. sigma: (...), in [0, 1]. Returns (...), infinite at 0."""
    return ((1 - sigma) / sigma).square()
