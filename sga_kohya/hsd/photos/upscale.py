"""SuperResolve of Algorithm 1: a crop below its target size, enlarged by the user's ESRGAN weights, else by Lanczos."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sga_kohya.errors import SgaError
from sga_kohya.hsd.cut.geometry import Size
from sga_kohya.hsd.photos.scaling import resize
from sga_kohya.hsd.settings.config import HsdConfig

if TYPE_CHECKING:
    import torch

TILE = 256
"""Side of what a network sees at once, in pixels of the crop, without its margin."""
MARGIN = 32
"""Pixels around a tile that the network sees and that are cut off again: more than ESRGAN makes visible use of."""


class Upscaler(Protocol):
    """Thread-safe."""

    name: str
    """Recorded in the manifest."""

    def enlarge(self, pixels: np.ndarray, size: Size) -> np.ndarray:
        """(H, W, 3) RGB uint8 to exactly `size`, (width, height)."""
        ...


def make_upscaler(config: HsdConfig) -> Upscaler:
    """By the weights that the configuration names, else Lanczos. Raises SgaError for weights that cannot be used."""
    return Lanczos() if config.upscale_model is None else SuperResolver(config.upscale_model, config.device)


class Lanczos:
    """Smooth, without any detail of its own. Of every enlarger: pixels (H, W, 3) RGB uint8, size (width, height)."""

    name = "lanczos"

    def enlarge(self, pixels: np.ndarray, size: Size) -> np.ndarray:
        return resize(pixels, size)


class SuperResolver:
    """Any single-image super-resolution network that spandrel knows, in tiles."""

    def __init__(self, path: Path, device: str = "", tile: int = TILE) -> None:
        """path: .pth or .safetensors. Half precision on CUDA where the architecture allows it."""
        import torch

        from sga_kohya.hsd.devices import torch_device
        from sga_kohya.kit.extras import library

        spandrel = library("spandrel", "sr", f"upscale_model {path}")
        if not path.is_file():
            raise SgaError(f"upscale_model {path}: no such file")
        self._device = torch_device(device)
        try:
            model = spandrel.ModelLoader(self._device).load_from_file(str(path))
        except Exception as error:  # whatever the file's reader and spandrel raise for what is no model
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise SgaError(f"upscale_model {path}: spandrel cannot load it: {reason}") from error
        single = isinstance(model, spandrel.ImageModelDescriptor)
        if not single or model.scale < 2 or (model.input_channels, model.output_channels) != (3, 3):
            raise SgaError(f"upscale_model {path}: {model.architecture.name} is no network that enlarges RGB pictures")
        half = self._device.type == "cuda" and model.supports_half
        self._dtype = torch.float16 if half else torch.float32
        self._model, self._tile = model.eval().to(self._dtype), tile
        self._lock = threading.Lock()
        self.name = path.name

    def enlarge(self, pixels: np.ndarray, size: Size) -> np.ndarray:
        """As often by the network as it takes to reach `size`, the rest by Lanczos."""
        while pixels.shape[1] < size[0] or pixels.shape[0] < size[1]:
            pixels = self._magnify(pixels)
        return resize(pixels, size)

    def _magnify(self, pixels: np.ndarray) -> np.ndarray:
        """By the network's own factor."""
        import torch

        image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None]
        # One thread at a time: several would only share the device, and multiply its memory.
        with self._lock, torch.inference_mode():
            output = tiled(self._forward, image, self._model.scale, self._tile, MARGIN)
        return output[0].permute(1, 2, 0).numpy()

    def _forward(self, image: "torch.Tensor") -> "torch.Tensor":
        """(1, 3, h, w) uint8 on the CPU to (1, 3, scale*h, scale*w) uint8 on the CPU."""
        import torch

        output = self._model(image.to(self._device, self._dtype) / 255)
        return (output.float() * 255).round().clamp(0, 255).to(torch.uint8).cpu()


def tiled(
    forward: Callable[["torch.Tensor"], "torch.Tensor"], image: "torch.Tensor", scale: int, tile: int, margin: int
) -> "torch.Tensor":
    """forward(image), (1, C, H, W) to (1, C, scale*H, scale*W), computed by tiles of `tile` pixels.

    Each is given `margin` pixels of its surroundings, which are cut from the result: where the network looks no
    further than that, the result is that of the whole picture.
    """
    import torch

    height, width = image.shape[2:]
    output = torch.empty((*image.shape[:2], height * scale, width * scale), dtype=image.dtype)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(height, top + tile), min(width, left + tile)
            y, x = max(0, top - margin), max(0, left - margin)
            seen = image[:, :, y : min(height, bottom + margin), x : min(width, right + margin)]
            inner = forward(seen)[
                :, :, (top - y) * scale : (bottom - y) * scale, (left - x) * scale : (right - x) * scale
            ]
            output[:, :, top * scale : bottom * scale, left * scale : right * scale] = inner
    return output
