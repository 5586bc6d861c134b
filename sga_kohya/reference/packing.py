"""Latents as a transformer's tokens, in the order that FLUX packs them in."""

import torch.nn.functional as F
from torch import Tensor


def to_tokens(latents: Tensor, side: int) -> Tensor:
    """(B, C, H, W) to (B, H / side * W / side, C * side * side): side x side latents a token."""
    return F.pixel_unshuffle(latents, side).flatten(2).transpose(1, 2)


def from_tokens(tokens: Tensor, rows: int, columns: int, side: int) -> Tensor:
    """Back from so many rows and columns of tokens, (B, rows * columns, C * side * side), to (B, C, H, W)."""
    return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, columns)), side)
