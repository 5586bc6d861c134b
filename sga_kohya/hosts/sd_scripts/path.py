"""Seams: training and sample images on another path than the straight one (--sga_path), an experimental option.

The host samples its noise levels, modulation moves them, and here the noisy latents are put on the path at the level
that came out. Where the host compares prediction and target, the target becomes the path's velocity and both lose what
is radial. This holds in validation too, because it is what the model is, not how it is trained. The token is a latent
pixel's channels before packing.
"""

import argparse
import functools
import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sga_kohya.config import SgaConfig
from sga_kohya.equations.paths import PATHS, Path, as_it_came, resample_antipodal, tokens_of
from sga_kohya.errors import SgaError
from sga_kohya.hosts.sd_scripts.checkout import Checkout
from sga_kohya.hosts.sd_scripts.families import SD3, UNET, family_of
from sga_kohya.hosts.seam import Seam
from sga_kohya.training.session import Session


@dataclass
class PathBatch:
    """A batch on the path. x, velocity: (B, C, …), float32. host_target: what the host sets as target, cloned.

    sign: 1 where the model predicts noise - latents, -1 where latents - noise. offset: what the host has added to the
    prediction and to a target of its own making, None for nothing.
    """

    path: Path
    x: Tensor
    velocity: Tensor
    host_target: Tensor
    sign: int = 1
    offset: Tensor | None = None

    def compare(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction and target as the loss takes them.

        A sample whose target is not the flow's is one that the host has replaced (differential output preservation, by
        the prediction of the model without its network); it stays, without its radial part.
        """
        flows = (target == self.host_target.to(target)).flatten(1).all(dim=1).view(-1, *[1] * (target.ndim - 1))
        if self.offset is not None:
            prediction, target = prediction - self.offset, target - self.offset
        own = self.sign * self.velocity.to(target)
        return self.path.velocity(prediction, self.x), torch.where(flows, own, self.path.velocity(target, self.x))


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
        """The path's image for the loop's."""
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
        """What to decode, for the loop's result."""
        self.follow(image)
        return image if self.x is None else as_it_came(self.path.end(self.x), image)


def check(session: Session, args: argparse.Namespace) -> None:
    """Raises SgaError for what excludes a path other than linear."""
    name, family = f"sga_path={session.config.path}", family_of(args)
    prediction = getattr(args, "model_prediction_type", "raw")
    if family is UNET:
        raise SgaError(f"{name} is for flow-matching models, and this script trains {family.name}: leave it out")
    if prediction != "raw":
        raise SgaError(
            f"{name} needs velocities, not model_prediction_type={prediction}: set model_prediction_type=raw"
        )
    if getattr(args, "ip_noise_gamma", None):
        raise SgaError(f"{name} excludes ip_noise_gamma={args.ip_noise_gamma}, which leaves the path: leave it out")
    if family is SD3 and args.weighting_scheme in ("sigma_sqrt", "cosmap"):
        raise SgaError(
            f"{name} compares velocities, and weighting_scheme={args.weighting_scheme} is made for SD3's form without "
            "noise: use uniform, logit_normal or mode"
        )
    if session.config.flow_snr_weight:
        raise SgaError(f"{name} excludes sga_flow_snr_weight, whose SNR is that of a straight path: leave out one")


def _replace_prepare(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def prepare_accelerator(args: argparse.Namespace) -> Any:
        check(session, args)
        session.expected |= {"path", "path loss"}
        if int(os.environ.get("RANK", 0)) == 0:
            print(
                f"sga_kohya: sga_path={session.config.path} is experimental: the model needs this path's sampler and, "
                "on a sphere, a decoder made for it (python -m sga_kohya.spherical decoder)",
                flush=True,
            )
        return original(args)

    return prepare_accelerator


def _replace_timesteps(
    original: Callable, session: Session, flow: Callable[[Tensor, Tensor], Tensor], sign: int = 1
) -> Callable:
    """flow: (latents, noise) -> the target that this family's trainers set."""
    path, signature = PATHS[session.config.path], inspect.signature(original)

    @functools.wraps(original)
    def get_noisy_model_input_and_timesteps(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        noisy, timesteps, sigmas = original(*args, **kwargs)
        given = signature.bind(*args, **kwargs).arguments
        latents, noise = given["latents"], given["noise"]
        x, velocity = path.at(latents, resample_antipodal(noise, latents) if path.geodesic else noise, sigmas)
        session.fire("path")
        session.path_batch = PathBatch(path, x, velocity, flow(latents, noise), sign)
        # A tensor of its own: the host asks for its gradient where checkpointing needs that.
        return x.to(noisy.dtype, copy=True), timesteps, sigmas

    return get_noisy_model_input_and_timesteps


def _replace_flux(original: Callable, session: Session) -> Callable:
    return _replace_timesteps(original, session, lambda latents, noise: noise - latents)


def _replace_lumina(original: Callable, session: Session) -> Callable:
    """Lumina's time and its velocity run the other way."""
    return _replace_timesteps(original, session, lambda latents, noise: latents - noise, sign=-1)


def _replace_sd3(original: Callable, session: Session) -> Callable:
    """SD3's trainers turn the velocity into clean latents, prediction * -sigma + noisy, and compare those.

    With -1 in place of sigma their sum is prediction + noisy, from which the loss takes the velocity back. They use
    these sigmas for nothing else but the weights that `check` refuses.
    """
    on_path = _replace_timesteps(original, session, lambda latents, noise: latents.clone())

    @functools.wraps(original)
    def get_noisy_model_input_and_timesteps(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        noisy, timesteps, sigmas = on_path(*args, **kwargs)
        if session.path_batch is not None:
            session.path_batch.offset = noisy.detach().clone()
        return noisy, timesteps, torch.full_like(sigmas, -1)

    return get_noisy_model_input_and_timesteps


def _replace_loss(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def conditional_loss(model_pred: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        batch, session.path_batch = session.path_batch, None
        if batch is not None:
            session.fire("path loss")
            model_pred, target = batch.compare(model_pred, target)
        return original(model_pred, target, *args, **kwargs)

    return conditional_loss


def _replace_sampler(original: Callable, session: Session) -> Callable:
    path = PATHS[session.config.path]

    @functools.wraps(original)
    def sampler(*args: Any, **kwargs: Any) -> Tensor:
        model = next(value for value in (*args, *kwargs.values()) if isinstance(value, nn.Module))
        walk = SampledWalk(path)
        hook = model.register_forward_pre_hook(walk.before_model, with_kwargs=True)
        try:
            return walk.end(original(*args, **kwargs))
        finally:
            hook.remove()

    return sampler


_NAME = "get_noisy_model_input_and_timesteps"
_FLUX_PARAMETERS = ("args", "noise_scheduler", "latents", "noise", "device", "dtype")
_SD3_PARAMETERS = ("args", "latents", "noise", "device", "dtype")
_LOSS_PARAMETERS = ("model_pred", "target", "loss_type", "reduction")
_TRAINING = (
    Seam("path's settings", "library.train_util.prepare_accelerator", ("args",), _replace_prepare),
    Seam("path", f"library.flux_train_utils.{_NAME}", _FLUX_PARAMETERS, _replace_flux),
    Seam("Lumina path", f"library.lumina_train_util.{_NAME}", _FLUX_PARAMETERS, _replace_lumina),
    Seam("SD3 path", f"library.sd3_train_utils.{_NAME}", _SD3_PARAMETERS, _replace_sd3),
    Seam("path loss", "library.train_util.conditional_loss", _LOSS_PARAMETERS, _replace_loss),
)
_SAMPLERS = {
    "library.flux_train_utils.denoise": ("model", "img"),
    "library.lumina_train_util.denoise": ("scheduler", "model", "img"),
    "library.sd3_train_utils.do_sample": ("height", "width", "seed", "cond", "neg_cond", "mmdit"),
    "library.anima_train_utils.do_sample": ("height", "width", "seed", "dit"),
    "hunyuan_image_minimal_inference.generate_body": ("args", "model"),
}


def seams(config: SgaConfig, checkout: Checkout) -> Iterator[Seam]:
    """Those that the path needs in this version of the host: Anima came with v0.10.1."""
    yield from _TRAINING
    if not PATHS[config.path].spherical:
        return  # these are sampled as the host samples
    for target, parameters in _SAMPLERS.items():
        module = target.rpartition(".")[0].replace(".", "/")
        if (checkout.root / f"{module}.py").is_file():
            yield Seam(f"path's sampler in {module}", target, parameters, _replace_sampler)
