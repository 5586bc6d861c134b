"""Distances between images: pixels always; LPIPS and DINOv2 where their packages and weights are on this machine."""

import contextlib
import io
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sga_kohya.errors import SgaError

Distance = Callable[[Tensor, Tensor], Tensor]  # two (B, 3, H, W) in [-1, 1] -> (B,)
DINO = "facebook/dinov2-small"


def rmse(a: Tensor, b: Tensor) -> Tensor:
    """Root mean square difference of pixels in [-1, 1], (B, 3, H, W) both; returns (B,)."""
    return (a - b).square().mean(dim=(1, 2, 3)).sqrt()


def load_lpips(net: str) -> nn.Module:
    """LPIPS of the package `lpips`, with gradients to its images. Raises SgaError when it or its weights are absent."""
    try:
        import lpips
    except ModuleNotFoundError:
        raise SgaError('LPIPS needs the package lpips: run pip install "sga-kohya[spherical]"') from None
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls torchvision in a way that is going out of use
            return lpips.LPIPS(net=net, verbose=False).requires_grad_(False).eval()
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise SgaError(f"LPIPS needs torchvision's {net} weights, which could not be downloaded ({error})") from None


def load_dino(name: str = DINO) -> Distance:
    """One minus the cosine of DINOv2's class tokens. Raises SgaError when it is not on this machine or the hub."""
    try:
        from transformers import AutoModel

        model = AutoModel.from_pretrained(name).requires_grad_(False).eval()
    except (ImportError, OSError, ValueError) as error:
        raise SgaError(f"DINO {name} cannot be loaded ({str(error).strip().partition(chr(10))[0]})") from None
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def embed(images: Tensor) -> Tensor:
        model.to(images.device)
        pixels = (F.interpolate(images.clamp(-1, 1), size=(224, 224), mode="bicubic", antialias=True) + 1) / 2
        normalised = (pixels - mean.to(images)) / std.to(images)
        return model(pixel_values=normalised).last_hidden_state[:, 0]

    return lambda a, b: 1 - F.cosine_similarity(embed(a), embed(b))


def available_distances(dino: str = DINO) -> tuple[dict[str, Distance], list[str]]:
    """Name -> distance, and for each that is not available a line that says why."""
    distances: dict[str, Distance] = {"pixels": rmse}
    absent = []
    for name, load in (("LPIPS", lambda: _lpips_distance()), ("DINO", lambda: load_dino(dino))):
        try:
            distances[name] = load()
        except SgaError as error:
            absent.append(f"without {name}: {error}")
    return distances, absent


def _lpips_distance() -> Distance:
    model = load_lpips("alex")
    return lambda a, b: model.to(a.device)(a.clamp(-1, 1), b.clamp(-1, 1)).flatten()


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, (B,), of images in [-1, 1]."""
    return -10 * torch.log10(((a.clamp(-1, 1) - b.clamp(-1, 1)) / 2).square().mean(dim=(1, 2, 3)).clamp_min(1e-10))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), 11 x 11 Gaussian window of sigma 1.5, mean over channels, (B,)."""
    a, b = ((v.clamp(-1, 1) + 1) / 2 for v in (a, b))
    line = torch.exp(-((torch.arange(11, device=a.device) - 5.0) ** 2) / (2 * 1.5**2))
    window = (line[:, None] * line / line.sum() ** 2).expand(a.shape[1], 1, 11, 11)

    def blur(v: Tensor) -> Tensor:
        return F.conv2d(v, window, groups=v.shape[1])

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, both = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return index.mean(dim=(1, 2, 3))
