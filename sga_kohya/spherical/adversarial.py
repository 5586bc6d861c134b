"""The patch-adversarial part of a decoder's loss: a PatchGAN discriminator (Isola et al. 2017) and the hinge loss."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchDiscriminator(nn.Sequential):
    """(B, 3, H, W) to a score for each patch of about 70 pixels, (B, 1, H / 8, W / 8): high for a photo."""

    def __init__(self, width: int = 64):
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for level, stride in ((1, 2), (2, 2), (3, 1)):
            before, after = width * 2 ** (level - 1), width * 2**level
            # GroupNorm and not BatchNorm: nothing then depends on the batch or on the process.
            layers += [nn.Conv2d(before, after, 4, stride, 1), nn.GroupNorm(8, after), nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Conv2d(8 * width, 1, 4, 1, 1))


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss. real, fake: its scores of photos and of reconstructions, (B, 1, h, w)."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def adversarial(fake: Tensor) -> Tensor:
    """The decoder's loss: it wants its reconstructions scored as photos. fake: (B, 1, h, w)."""
    return -torch.mean(fake)
