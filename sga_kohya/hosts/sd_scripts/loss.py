"""Seam: the loss of each sample is noted for the run's statistics. The host's value passes unchanged.

Every script compares prediction and target through `conditional_loss`, before it weights, masks and averages.
"""

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from sga_kohya.hosts.seam import Seam
from sga_kohya.training.session import Session


def _replace(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def conditional_loss(model_pred: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        loss = original(model_pred, *args, **kwargs)
        current = session.current
        if current is not None:
            detached, count = loss.detach(), len(current.granularities)
            each = detached.flatten(1).mean(1) if detached.dim() > 1 else detached.expand(count)
            session.monitor.add(current.granularities, each, session.noise_level)
        return loss

    return conditional_loss


SEAM = Seam("loss", "library.train_util.conditional_loss", ("model_pred", "target", "loss_type", "reduction"), _replace)
