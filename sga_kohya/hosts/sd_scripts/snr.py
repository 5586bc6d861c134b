"""Seam: the threshold of Min-SNR follows the granularity (Eq. 32-33), for U-Nets.

Every script of SD and SDXL imports `apply_snr_weight(loss, …)` by name and calls it with the loss of each sample where
min_snr_gamma is set, which modulation.py sees to. Samples without a granularity of ours, validation and the host's
other weightings (debiased estimation, v-prediction like noise) stay the host's.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sga_kohya.equations.weights import min_snr_weight
from sga_kohya.hosts.seam import Seam
from sga_kohya.training.session import Session


def _replace(original: Callable, session: Session) -> Callable:
    table = session.config.snr_gamma

    @functools.wraps(original)
    def apply_snr_weight(
        loss: Tensor, timesteps: Tensor, noise_scheduler: Any, gamma: float | str, v_prediction: bool = False
    ) -> Tensor:
        # A text is ours, see modulation.py: without us the host would not have weighted this loss.
        unset = isinstance(gamma, str)
        if session.current is None:
            return loss if unset else original(loss, timesteps, noise_scheduler, gamma, v_prediction)
        session.fire("SNR weight")
        labels = [label or "" for label in session.current.granularities]
        named = torch.tensor([label in table for label in labels], device=loss.device)
        gammas = torch.tensor([table.get(label, 1.0) for label in labels])
        ones = torch.ones_like(loss)
        hosts = ones if unset else original(ones, timesteps, noise_scheduler, gamma, v_prediction)
        ours = min_snr_weight(snr(noise_scheduler)[timesteps.cpu()], gammas, v_prediction).to(loss)
        return loss * torch.where(named, ours, hosts)

    return apply_snr_weight


def snr(noise_scheduler: Any) -> Tensor:
    """SNR(t) = alpha_bar / (1 - alpha_bar), (T,). Not the host's all_snr, taken before zero_terminal_snr moves it."""
    alpha_bar = noise_scheduler.alphas_cumprod.cpu()
    return alpha_bar / (1 - alpha_bar)


SEAM = Seam(
    "SNR weight",
    "library.custom_train_functions.apply_snr_weight",
    ("loss", "timesteps", "noise_scheduler", "gamma", "v_prediction"),
    _replace,
)
