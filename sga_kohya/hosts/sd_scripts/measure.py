"""A run of sd-scripts that only looks (training/look.py): its seams, its data as they are, and all of its latents."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.hosts.sd_scripts import arguments, dataset, loss, noise, started
from sga_kohya.hosts.sd_scripts.checkout import Checkout
from sga_kohya.hosts.sd_scripts.dataset import HostDatasetGroup
from sga_kohya.hosts.seam import Installation, install
from sga_kohya.training.events import Part, Run
from sga_kohya.training.look import Look, Seen
from sga_kohya.training.monitor import Monitor
from sga_kohya.training.session import Session
from sga_kohya.tuples.step import SubBatch


def install_look(
    config: SgaConfig,
    checkout: Checkout,
    script: str,
    level: Callable[[], float],
    observe: Callable[[Session, Seen], None],
) -> Installation:
    """Install all seams of a measuring run. script: as in install_for. level, observe: see Look."""
    seams = [arguments.SEAM, dataset.SEAM, started.CLASS_SEAM, started.SEAM, *noise.seams_of(script), loss.LOSS]
    session = Session(config, parts=[Monitor()])
    session.parts += [PlainData(session), Look(session, level, observe)]
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
