"""A Fréchet distance on features that need no download: a small convolutional network with fixed random weights.

It is computed as FID is, but random features see texture, colour and edges, not meaning. Its numbers rank what was
trained and measured together; they compare with no FID anywhere.
"""

import numpy as np
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn

FEATURES = 128


def feature_network(seed: int = 0) -> nn.Module:
    """(B, 3, H, W) in [-1, 1] to (B, FEATURES): mean and deviation of 64 channels after three strided layers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for before, after in ((3, 32), (32, 64), (64, FEATURES // 2)):
            convolution = nn.Conv2d(before, after, 3, 2, 1)
            nn.init.orthogonal_(convolution.weight, gain=2**0.5)
            layers += [convolution, nn.LeakyReLU(0.2)]
        return nn.Sequential(*layers).requires_grad_(False).eval()


@torch.no_grad()
def statistics(images: Tensor, network: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Mean (FEATURES,) and covariance of the features of images (N, 3, H, W) in [-1, 1], N above FEATURES."""
    if len(images) <= FEATURES:
        raise ValueError(f"{len(images)} images are too few for the covariance of {FEATURES} features")
    rows = []
    for batch in images.split(256):
        channels = network(batch.clamp(-1, 1)).flatten(2)
        rows.append(torch.cat([channels.mean(dim=2), channels.std(dim=2)], dim=1))
    features = torch.cat(rows).double().numpy()
    return features.mean(axis=0), np.cov(features, rowvar=False)


def frechet_distance(left: tuple[np.ndarray, np.ndarray], right: tuple[np.ndarray, np.ndarray]) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two Gaussians (mean, covariance)."""
    (mean_a, cov_a), (mean_b, cov_b) = left, right
    root = np.real(sqrtm(cov_a @ cov_b))  # the product has real roots; rounding adds an imaginary part
    return float(np.sum((mean_a - mean_b) ** 2) + np.trace(cov_a + cov_b - 2 * root))
