"""In what types a run computes, by the word of sd-scripts and accelerate, `mixed_precision`.

"bf16": weights that are frozen (the network under an adapter, text encoders, VAE) are bfloat16, and the network
computes under autocast. "no": everything is float32. What is trained, its optimizer, the loss and what is saved are
float32 by either word.
"""

import contextlib
import os
from typing import Any

import torch

from sga_kohya.errors import SgaError
from sga_kohya.reference.options import MIXED_PRECISIONS

AMPERE = 8
"""The first CUDA generation that computes in bfloat16."""


def chosen(asked: str | None, device: torch.device) -> str:
    """The option's word; else that of `accelerate launch`; else bf16 on a card that has it, and "no" elsewhere.

    accelerate says "no" where nobody chose, so its "no" counts as none. Raises SgaError where it says another.
    """
    if asked is not None:
        return asked
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if launched not in MIXED_PRECISIONS:
        raise SgaError(
            f"accelerate launch was told --mixed_precision {launched}, and this trainer computes in bf16 or float32: "
            "give it --mixed_precision bf16 or no"
        )
    return "bf16" if launched == "bf16" or _has_bfloat16(device) else "no"


def _has_bfloat16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= AMPERE


def weight_dtype(mixed_precision: str | None) -> torch.dtype:
    """Of frozen weights, and of the network's forward pass."""
    return torch.bfloat16 if mixed_precision == "bf16" else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    """Nothing for float32, which not every device's autocast knows."""
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
