"""Seams for a run of the host that only looks: noise levels are set, predictions handed out, and nothing is trained.

The host loads models, adapter and data and calls its model as when it trains. Where it would draw noise levels, ours
are used; where it would compute the loss, `observe` gets the prediction with its graph; backward passes and optimizer
steps of the host do nothing. `Enough` ends the run.
"""

import argparse
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sga_kohya.config import SgaConfig
from sga_kohya.equations.interference import GaussianPath, diffusion_path, flow_path
from sga_kohya.errors import SgaError
from sga_kohya.hosts.sd_scripts import arguments, dataset, started
from sga_kohya.hosts.sd_scripts.checkout import Checkout
from sga_kohya.hosts.sd_scripts.dataset import HostDatasetGroup
from sga_kohya.hosts.seam import Installation, Seam, install
from sga_kohya.training.events import Part, Run
from sga_kohya.training.monitor import Monitor
from sga_kohya.training.session import Session
from sga_kohya.tuples.step import SubBatch


class Enough(Exception):
    """Everything is measured. Not an error."""


@dataclass
class Seen:
    """One batch. latents, noise, x, prediction: (B, C, ...), as in x = mean z + std eps; path: per sample, on the CPU.

    prediction: what `path` predicts, float32, with the graph that leads to the trained parameters.
    """

    sub_batch: SubBatch
    latents: Tensor
    noise: Tensor
    x: Tensor
    path: GaussianPath
    prediction: Tensor


@dataclass
class Look:
    """What is asked of the run. level(): the noise level of the batch in hand, in (0, 1]. observe: gets each batch."""

    level: Callable[[], float]
    observe: Callable[[Session, Seen], None]
    waiting: dict[str, Any] = field(default_factory=dict)  # what the noise seam knows, for the loss seam


def install_look(config: SgaConfig, checkout: Checkout, look: Look) -> Installation:
    """Install all seams of a measuring run."""
    seams = [arguments.SEAM, dataset.SEAM, started.CLASS_SEAM, started.SEAM]
    target, name = "library.flux_train_utils", "get_noisy_model_input_and_timesteps"
    flux = ("args", "noise_scheduler", "latents", "noise", "device", "dtype")
    seams += [
        Seam("noise levels", f"{target}.{name}", flux, lambda original, session: _flux(original, session, look)),
        Seam(
            "SD3 noise levels",
            f"library.sd3_train_utils.{name}",
            ("args", "latents", "noise", "device", "dtype"),
            lambda original, session: _sd3(original, session, look),
        ),
        Seam(
            "U-Net noise levels",
            "library.train_util.get_noise_noisy_latents_and_timesteps",
            ("args", "noise_scheduler", "latents"),
            lambda original, session: _unet(original, session, look),
        ),
        Seam(
            "loss",
            "library.train_util.conditional_loss",
            ("model_pred", "target"),
            lambda original, session: _loss(original, session, look),
        ),
    ]
    session = Session(config, parts=[Monitor()])
    session.parts.append(PlainData(session))
    return install(seams, session, checkout.package)


def _data(session: Session) -> HostDatasetGroup:
    """Raises SgaError where the host has made its data unseen."""
    data = session.data()
    assert isinstance(data, HostDatasetGroup)  # of our seam, the only one there
    return data


class PlainData(Part):
    """Each image as it is: its latents are what the posterior is made of."""

    def __init__(self, session: Session):
        self.session = session

    def started(self, run: Run) -> None:
        for subset in (subset for kept in _data(self.session).keepers for subset in kept.subsets):
            subset.flip_aug = subset.color_aug = subset.random_crop = False
            subset.caption_dropout_rate = subset.caption_tag_dropout_rate = 0.0


def _flux(original: Callable, session: Session, look: Look) -> Callable:
    """FLUX's form: Chroma, Anima and HunyuanImage as well."""

    @functools.wraps(original)
    def get_noisy_model_input_and_timesteps(
        args: argparse.Namespace, noise_scheduler: Any, latents: Tensor, noise: Tensor, device: Any, dtype: Any, *_: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        if getattr(args, "model_prediction_type", "raw") != "raw":
            raise SgaError(f"model_prediction_type={args.model_prediction_type} is not measured: train and look at raw")
        noisy, sigmas = _linear(look, session, latents, noise)
        timesteps = sigmas.flatten() * noise_scheduler.config.num_train_timesteps
        return noisy.to(dtype), timesteps.to(dtype), sigmas

    return get_noisy_model_input_and_timesteps


def _sd3(original: Callable, session: Session, look: Look) -> Callable:
    @functools.wraps(original)
    def get_noisy_model_input_and_timesteps(
        args: argparse.Namespace, latents: Tensor, noise: Tensor, device: Any, dtype: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        noisy, sigmas = _linear(look, session, latents, noise)
        # SD3's trainer turns the velocity into clean latents, x - sigma v, before the loss.
        look.waiting["velocity"] = lambda clean: (noisy - clean) / sigmas
        return noisy.to(dtype), (sigmas.flatten() * 1000).to(dtype), sigmas

    return get_noisy_model_input_and_timesteps


def _linear(look: Look, session: Session, latents: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    level = torch.full((len(latents),), look.level())
    sigmas = level.to(latents.device).view(-1, *[1] * (latents.ndim - 1))
    noisy = (1 - sigmas) * latents + sigmas * noise
    look.waiting = {"latents": latents, "noise": noise, "x": noisy, "path": flow_path(level)}
    session.fire("noised")
    return noisy, sigmas


def _unet(original: Callable, session: Session, look: Look) -> Callable:
    @functools.wraps(original)
    def get_noise_noisy_latents_and_timesteps(
        args: argparse.Namespace, noise_scheduler: Any, latents: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        count = noise_scheduler.config.num_train_timesteps
        timestep = min(round(look.level() * count), count - 1)
        timesteps = torch.full((len(latents),), timestep, device=latents.device, dtype=torch.long)
        noise = torch.randn_like(latents)
        path = diffusion_path(noise_scheduler.alphas_cumprod[timesteps.cpu()].cpu().float(), args.v_parameterization)
        shape = (-1, *[1] * (latents.ndim - 1))
        noisy = path.mean.to(latents).view(shape) * latents + path.std.to(latents).view(shape) * noise
        look.waiting = {"latents": latents, "noise": noise, "x": noisy, "path": path}
        session.fire("noised")
        return noise, noisy, timesteps

    return get_noise_noisy_latents_and_timesteps


def _loss(original: Callable, session: Session, look: Look) -> Callable:
    @functools.wraps(original)
    def conditional_loss(model_pred: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        loss = original(model_pred, target, *args, **kwargs)
        current = session.current
        if current is None:
            return loss
        if not look.waiting:
            raise SgaError("this script draws its noise levels in a way that is not measured: FLUX, SD3 and U-Nets are")
        _train_nothing(session)
        found, look.waiting = look.waiting, {}
        prediction = found.pop("velocity", lambda value: value)(model_pred)
        parts = {name: value.detach().float() if name != "path" else value for name, value in found.items()}
        look.observe(session, Seen(current, prediction=prediction, **parts))
        return loss.detach()

    return conditional_loss


def _train_nothing(session: Session) -> None:
    """From now on the host's backward passes and optimizer steps do nothing."""
    holder = session.accelerator
    if holder is None:
        return
    holder.backward = lambda *args, **kwargs: None  # type: ignore[method-assign]
    for optimizer in holder._optimizers:
        optimizer.step = lambda *args, **kwargs: None


def cached_latents(session: Session, current: SubBatch, like: Tensor) -> "Latents":
    """All latents of the dataset of this batch that have its shape; see Latents.

    like: (B, C, ...), the batch's latents as the model gets them: hosts scale and shift what they cache, and by how
    much is read off here, and checked. Raises SgaError where the two do not agree.
    """
    holder = _data(session)
    infos = [d.image_data[key] for d in holder.group.datasets for key in d.image_data]
    labels = [identity.granularity for part in holder.identities for identity in part.values()]
    if any(info.latents is None for info in infos):
        raise SgaError("the host did not cache the latents; leave cache_latents_to_disk and augmentations out")
    own = holder.group.datasets[current.dataset].image_data
    raw = torch.stack([own[key].latents for key in current.keys]).float().view(like.shape)
    scale = float(like.std() / raw.std())
    shift = float(like.mean() - scale * raw.mean())
    if not torch.allclose(raw * scale + shift, like.cpu(), rtol=1e-2, atol=2e-2 * float(like.std())):
        raise SgaError("the batch is not made of the cached latents: leave flips, crops and other augmentations out")
    return Latents(
        [info.latents.float() * scale + shift for info in infos], labels, [info.num_repeats for info in infos]
    )


@dataclass
class Latents:
    """A dataset's latents, (C, ...) each, scaled as the model gets them. labels: granularities. repeats: from 1."""

    latents: list[Tensor]
    labels: list[str | None]
    repeats: list[int]
