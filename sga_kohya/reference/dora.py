"""How a LyCORIS DoRA computes here: W' x = m / n (W x + s B A x), with n the norm of each row of W + s B A.

LyCORIS' own forward builds W + s B A and W' in every layer, and autograd keeps them for the way back: together more
than the frozen network, in float32 even where that is bfloat16. This is the same function: the adapter's part is a sum
of its own beside W x, and n needs no more of W than W A^T.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def compute_beside_the_weight(layer: Any) -> None:
    """layer: a LoConModule of LyCORIS with DoRA over rows, new: its scale is still the norm of each row of W."""
    layer.register_buffer("weight_square", layer.dora_scale.detach().flatten().square(), persistent=False)
    layer.forward = lambda x: _forward(layer, x)


def _forward(layer: Any, x: Tensor) -> Tensor:
    """x: as the layer's module takes it. In the type of W x."""
    module, per_channel = layer.org_module[0], layer.dora_scale.shape[1:-1]  # () of a linear layer, (1, 1) of a conv
    with torch.autocast(x.device.type, enabled=False):
        ratio = (layer.dora_scale.flatten() / _row_norms(layer)).view(-1, *per_channel)
    plain = layer.op(x, module.weight, None, **layer.kw_dict)
    found = ratio * plain + ratio * layer.scale * layer.lora_up(layer.lora_down(x))
    if module.bias is not None:
        found = found + module.bias.view(-1, *per_channel)
    return found.to(plain.dtype)


def _row_norms(layer: Any) -> Tensor:
    """|W + s B A| of each row, (out,), from |W|^2 + 2 s (W A^T) B^T + s^2 B A A^T B^T, never the matrix itself."""
    weight, a, b = (part.weight.flatten(1) for part in (layer.org_module[0], layer.lora_down, layer.lora_up))
    across = F.linear(weight, a.to(weight.dtype)).float()  # (out, rank)
    square = layer.weight_square + 2 * layer.scale * (across * b).sum(1) + layer.scale**2 * (b @ (a @ a.T) * b).sum(1)
    # Rounding can take a row of zeros below 0, and there the root has no gradient.
    return square.clamp_min(torch.finfo(square.dtype).eps ** 2).sqrt()
