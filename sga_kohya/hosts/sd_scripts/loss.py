"""Seams: where a loss is taken, and where a U-Net's is weighted by its signal-to-noise ratio (Eq. 32-33).

Every script compares prediction and target through `conditional_loss`, before it weights, masks and averages. Every
script of SD and SDXL imports `apply_snr_weight(loss, …)` by name and calls it with the loss of each sample where
min_snr_gamma is set, which started.py sees to.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sga_kohya.hosts.seam import Seam
from sga_kohya.training.modulation import SNR_WEIGHT, Modulation
from sga_kohya.training.session import Session


def _replace_loss(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def conditional_loss(model_pred: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        model_pred, target = session.compared(model_pred, target)
        return session.weighed(original(model_pred, target, *args, **kwargs))

    return conditional_loss


def _replace_snr(original: Callable, session: Session) -> Callable:
    modulation = session.part(Modulation)

    @functools.wraps(original)
    def apply_snr_weight(
        loss: Tensor, timesteps: Tensor, noise_scheduler: Any, gamma: float | str, v_prediction: bool = False
    ) -> Tensor:
        # A text is ours, see started.py: without us the host would not have weighted this loss.
        unset = isinstance(gamma, str)
        if session.current is None:
            return loss if unset else original(loss, timesteps, noise_scheduler, gamma, v_prediction)
        session.fire(SNR_WEIGHT)
        ones = torch.ones_like(loss)
        hosts = ones if unset else original(ones, timesteps, noise_scheduler, gamma, v_prediction)
        ratio = snr(noise_scheduler)[timesteps.cpu()]
        return loss * modulation.snr_weight(session.current.granularities, ratio, v_prediction, hosts)

    return apply_snr_weight


def snr(noise_scheduler: Any) -> Tensor:
    """SNR(t) = alpha_bar / (1 - alpha_bar), (T,). Not the host's all_snr, taken before zero_terminal_snr moves it."""
    alpha_bar = noise_scheduler.alphas_cumprod.cpu()
    return alpha_bar / (1 - alpha_bar)


LOSS = Seam(
    "loss", "library.train_util.conditional_loss", ("model_pred", "target", "loss_type", "reduction"), _replace_loss
)
SNR = Seam(
    "SNR weight",
    "library.custom_train_functions.apply_snr_weight",
    ("loss", "timesteps", "noise_scheduler", "gamma", "v_prediction"),
    _replace_snr,
)
