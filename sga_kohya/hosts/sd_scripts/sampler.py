"""Seams: sample images walk along the path that the model was trained on (--sga_path), in each family's sampler."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from sga_kohya.equations.paths import PATHS
from sga_kohya.hosts.sd_scripts.checkout import Checkout
from sga_kohya.hosts.sd_scripts.families import FAMILIES
from sga_kohya.hosts.seam import Seam
from sga_kohya.training.path import SampledWalk
from sga_kohya.training.session import Session


def _replace(original: Callable, session: Session) -> Callable:
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


def seams(path: str, checkout: Checkout) -> Iterator[Seam]:
    """Those of this version of the host (Anima came with v0.10.1), for a path that its own samplers do not walk."""
    if not PATHS[path].spherical:
        return
    for target, parameters in filter(None, (family.loop for family in FAMILIES)):
        module = target.rpartition(".")[0].replace(".", "/")
        if (checkout.root / f"{module}.py").is_file():
            yield Seam(f"sampler in {module}", target, parameters, _replace)
