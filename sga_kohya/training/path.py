"""Training and sample images on another path than the straight one (--sga_path), an experimental option.

The host samples its noise levels, modulation moves them, and here the noisy latents are put on the path at the level
that came out. Where the host compares prediction and target, the target becomes the path's velocity and both lose what
is radial. This holds in validation too, because it is what the model is, not how it is trained. The token is a latent
pixel's channels before packing.
"""

from typing import Any

import torch
from torch import Tensor, nn

from sga_kohya.equations.paths import PATHS, Path, as_it_came, resample_antipodal, tokens_of
from sga_kohya.training.events import Draw, Noised, Part


class PathPart(Part):
    """Batches on the path of that name (a key of equations.paths.PATHS)."""

    needs = frozenset({"noised", "compared"})

    def __init__(self, name: str):
        self.path = PATHS[name]

    def moves(self, draw: Draw) -> bool:
        return True

    def noised(self, batch: Noised) -> None:
        noise = resample_antipodal(batch.noise, batch.latents) if self.path.geodesic else batch.noise
        batch.x, batch.velocity = self.path.at(batch.latents, noise, batch.column(batch.sigma))

    def compared(self, batch: Noised, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """A sample whose target is not the flow's is one that the host has replaced (differential output preservation,

        by the prediction of the model without its network); it stays, without its radial part.
        """
        if batch.velocity is None or batch.target is None:
            return prediction, target
        flows = batch.column((target == batch.target.to(target)).flatten(1).all(dim=1))
        if batch.offset is not None:
            prediction, target = prediction - batch.offset, target - batch.offset
        own = batch.sign * batch.velocity.to(target)
        return self.path.velocity(prediction, batch.x), torch.where(flows, own, self.path.velocity(target, batch.x))


class SampledWalk:
    """Makes a host's Euler loop walk along a path, seen from the model that the loop calls.

    Between two calls the loop moves its image by (sigma' - sigma) * velocity, guidance included. That displacement is
    all that a step of the path needs, so the model is shown the path's image instead of the loop's.
    """

    def __init__(self, path: Path):
        self.path = path
        self.seen: Tensor | None = None  # the loop's image, as tokens
        self.x: Tensor | None = None  # the path's

    def before_model(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """A forward pre-hook. The image is `img`, or the first argument; guidance may call several times a step."""
        image = kwargs["img"] if "img" in kwargs else args[0]
        shown = self.follow(image)
        if "img" in kwargs:
            return args, {**kwargs, "img": shown}
        return (shown, *args[1:]), kwargs

    def follow(self, image: Tensor) -> Tensor:
        """The path's image for the loop's, (B, tokens, C) or (B, C, H, W)."""
        tokens = tokens_of(image)
        if self.seen is None or self.x is None:
            self.x = self.path.prior(tokens)
        else:
            start = slice(len(tokens))  # guidance calls the model with the image twice, the loop ends with it once
            self.seen, self.x = self.seen[start], self.x[start]
            if not torch.equal(tokens, self.seen):
                self.x = self.path.step(self.x, tokens.float() - self.seen.float())
        self.seen = tokens.clone()
        return as_it_came(self.x, image)

    def end(self, image: Tensor) -> Tensor:
        """What to decode, for the loop's result, of its shape."""
        self.follow(image)
        return image if self.x is None else as_it_came(self.path.end(self.x), image)
