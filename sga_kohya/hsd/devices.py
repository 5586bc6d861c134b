"""Where a model runs."""

import os
from typing import TYPE_CHECKING

from sga_kohya.errors import SgaError

if TYPE_CHECKING:
    import torch

ACCELERATOR_BATCH = 4
"""Views at once on an accelerator; one at a time on a CPU, where a batch gains nothing."""


def own(name: str) -> str:
    """Of several processes on a machine each has a GPU of its own: the one that "cuda" stands for, such as cuda:1."""
    rank = os.environ.get("LOCAL_RANK", "")
    return f"cuda:{rank}" if name == "cuda" and rank.isdigit() else name


def torch_device(name: str) -> "torch.device":
    """The device of that name, of "" the accelerator that is there, else the CPU. Raises SgaError for a missing one."""
    import torch

    if not name:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.empty(0, device=own(name)).device
    # torch raises RuntimeError for unknown names, AssertionError for builds without CUDA.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SgaError(f"device {name}: {str(error).splitlines()[0]} Use cpu, cuda, cuda:1 or mps") from None


def batch_size(device: "torch.device") -> int:
    return 1 if device.type == "cpu" else ACCELERATOR_BATCH
