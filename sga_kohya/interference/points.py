"""What is measured at each batch: Omega and kernel products of single points, and gradients of whole tuple steps.

A point is x = mean z_i + std eps for one slice z_i. Its exact quantities need other latents of the same shape (Eq. 18,
45); where the slice's shape has one granularity only, and beside them everywhere, the same Omega is taken of averaged
latents and called a proxy. A tuple step's gradients (Eq. 43) need neither, and do not vanish below s*.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from sga_kohya.equations.interference import (
    GaussianPath,
    Posterior,
    group_fields,
    interference_matrix,
    quadratic_form,
    relative_log_likelihood,
    residuals,
    squared_distances,
)
from sga_kohya.hosts.sd_scripts.measure import Latents, cached_latents
from sga_kohya.training.look import Enough, Seen
from sga_kohya.training.session import Session
from sga_kohya.tuples.gradients import Gradients, gram_of, label_of, trained
from sga_kohya.tuples.probe import Probe
from sga_kohya.words import UNLABELLED

if TYPE_CHECKING:
    from collections.abc import Callable

    from sga_kohya.tuples.accelerator import TupleAccelerator

POOLED = 8  # latents are averaged to at most so many values a side for the proxy
CHUNK = 64  # latents at once
VISIBLE = 1e-6  # below this alpha_xi, a granularity's part of the gradient is taken as nothing

Point = dict[str, Any]


@dataclass
class Space:
    """All latents that can be compared: (n, d) each row, with labels and repeats. cells: values averaged into one."""

    latents: Tensor
    labels: Tensor
    names: list[str]
    repeats: Tensor
    cells: float = 1.0


def exact_space(data: Latents, shape: torch.Size) -> Space:
    """The latents of one shape."""
    chosen = [i for i, latent in enumerate(data.latents) if latent.shape == shape]
    return _space(data, chosen, [data.latents[i].flatten() for i in chosen])


def pooled_space(data: Latents, side: int, shape: torch.Size) -> Space:
    """All latents, averaged to side x side: a proxy. shape: of the point, whose noise shrinks with it."""
    cells = shape[-1] * shape[-2] / side**2
    return _space(data, list(range(len(data.latents))), [pool(z[None], side)[0] for z in data.latents], cells)


def _space(data: Latents, chosen: list[int], rows: list[Tensor], cells: float = 1.0) -> Space:
    labels = [data.labels[i] or UNLABELLED for i in chosen]
    names = sorted(set(labels))
    places = torch.tensor([names.index(label) for label in labels])
    return Space(torch.stack(rows), places, names, torch.tensor([data.repeats[i] for i in chosen]), cells)


def pool(latents: Tensor, side: int) -> Tensor:
    """(B, ..., H, W) averaged over a side x side grid and flattened, (B, d)."""
    flat = latents.reshape(len(latents), -1, *latents.shape[-2:])
    return adaptive_avg_pool2d(flat, side).flatten(1)


def side_of(data: Latents) -> int:
    return min(POOLED, *(min(latent.shape[-2:]) for latent in data.latents))


def output_space(space: Space, z: Tensor, noise: Tensor, x: Tensor, path: GaussianPath, prediction: Tensor) -> Point:
    """alpha and Omega at one point, (1, d) each argument. Omega is per element, so that shapes compare.

    Returns JSON-ready figures, and under "_pull" what to pull back through the network: (G, d), alpha_xi Delta_xi.
    """
    # Averaging over cells divides the noise, and with it the path's std, by the root of their number.
    spread = GaussianPath(path.mean, path.std / space.cells**0.5, path.from_x, path.from_z)
    posterior = Posterior(len(space.names))
    far = []
    for part in torch.arange(len(space.latents)).split(CHUNK):
        latents = space.latents[part]
        likelihood = relative_log_likelihood(noise * space.cells**0.5, z, latents, spread)
        posterior.add(likelihood, latents, space.labels[part], space.repeats[part])
        far.append(squared_distances(z, latents)[0])
    delta = residuals(prediction, group_fields(x, posterior, path))
    alpha, omega = posterior.alpha, interference_matrix(delta) / delta.shape[-1]
    distances = torch.cat(far)
    others = distances[distances > 1e-6 * float(z.square().sum())]  # not the slice itself, nor its copies
    nearest = float(others.min().sqrt()) * space.cells**0.5 if len(others) else 0.0
    return {
        "labels": space.names,
        "alpha": alpha[0].tolist(),
        "omega": omega[0].tolist(),
        "loss": float(quadratic_form(alpha, omega)),
        "effective": float(posterior.effective),
        "latents": len(space.latents),
        "nearest": nearest if len(space.latents) > 1 else None,  # in units of the noise
        "noise": float(path.std / (path.mean + path.std)),  # sigma of the straight path with this signal-to-noise ratio
        "_pull": alpha[0][:, None] * delta[0],
    }


@dataclass
class Measurement:
    """Everything measured so far. levels: noise levels in (0, 1], taken in turn by tuple steps. points: a level.

    saved: called after each tuple step.
    """

    levels: list[float]
    points: int
    saved: "Callable[[Measurement], None]"
    done: int = 0  # tuple steps
    seen: list[Point] = field(default_factory=list)  # slices
    steps: dict[int, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))  # records by level
    windows: dict[int, list[Any]] = field(default_factory=dict)
    _data: Latents | None = None
    _spaces: dict[tuple[torch.Size, bool], Space] = field(default_factory=dict)
    _probe: Probe | None = None

    @property
    def total(self) -> int:
        """Tuple steps to make."""
        return self.points * len(self.levels)

    @property
    def index(self) -> int:
        """Of the level in turn."""
        return self.done % len(self.levels)

    def level(self) -> float:
        """See Look."""
        return self.levels[self.index]

    def observe(self, session: Session, seen: Seen) -> None:
        """See Look. Raises Enough after the last tuple step."""
        holder = session.accelerator
        if holder is None:
            return
        if self._data is None:
            self._data = cached_latents(session, seen.sub_batch, seen.latents)
        if self._probe is None:
            self._probe = self._new_probe(holder)
        for i in range(len(seen.latents)):
            self.seen.append(self._point(holder, self._data, seen, i))
        # The gradient of the plain mean squared error with the sub-batch's weight of Eq. 6; what else training may
        # weight by (Min-SNR, weighting_scheme, masks) depends on its noise levels, and those are set here.
        path, shape = seen.path, (-1, *[1] * (seen.x.ndim - 1))
        from_x, from_z = (part.to(seen.x).view(shape) for part in (path.from_x, path.from_z))
        error = seen.prediction.detach().float() - (from_x * seen.x + from_z * seen.latents)
        pulled = pull_back(holder, seen.prediction, 2 * seen.sub_batch.weight / error.numel() * error)
        self._probe.add(label_of(seen.sub_batch), pulled, 1.0)
        if seen.sub_batch.last:
            self._probe.finish(self.done + 1)
            self.windows[self.index] = list(self._probe.window)
            self._probe = None
            self.done += 1
            self.saved(self)
            if self.done >= self.total:
                raise Enough

    def _new_probe(self, holder: "TupleAccelerator") -> Probe:
        """Of the level in turn, with what was seen of it before."""
        probe = Probe(holder, 1, self.steps[self.index].append, window=self.points)
        probe.window.extend(self.windows.get(self.index, []))
        return probe

    def _point(self, holder: "TupleAccelerator", data: Latents, seen: Seen, i: int) -> Point:
        z, eps, x, v = (
            t[i : i + 1].detach().float().cpu() for t in (seen.latents, seen.noise, seen.x, seen.prediction)
        )
        path = GaussianPath(*(part[i : i + 1].cpu() for part in vars(seen.path).values()))
        space = self._space(data, z.shape[1:], exact=True)
        exact = output_space(space, z.flatten(1), eps.flatten(1), x.flatten(1), path, v.flatten(1))
        pull = exact.pop("_pull")
        if len(space.names) > 1:
            exact["kernel"] = self._kernel(holder, seen.prediction, pull, exact["alpha"], i)
        side = side_of(data)
        pooled = self._space(data, z.shape[1:], exact=False)
        proxy = output_space(pooled, pool(z, side), pool(eps, side), pool(x, side), path, pool(v, side))
        del proxy["_pull"]
        return {
            "level": self.index,
            "label": seen.sub_batch.granularities[i] or UNLABELLED,
            "shape": "x".join(map(str, z.shape[1:])),
            "exact": exact if len(space.names) > 1 else None,
            "proxy": proxy,
        }

    def _space(self, data: Latents, shape: torch.Size, exact: bool) -> Space:
        key = (shape, exact)
        if key not in self._spaces:
            self._spaces[key] = exact_space(data, shape) if exact else pooled_space(data, side_of(data), shape)
        return self._spaces[key]

    def _kernel(
        self, holder: "TupleAccelerator", prediction: Tensor, pull: Tensor, alpha: list[float], i: int
    ) -> list[list[float]]:
        """<g_xi, g_eta> of Eq. 45, (G, G): one vector-Jacobian product a granularity that is there at all."""
        parts: list[Gradients] = []
        for share, row in zip(alpha, pull, strict=True):
            if share < VISIBLE:
                parts.append([None] * len(trained(holder)))
                continue
            output = torch.zeros_like(prediction, dtype=torch.float32)
            output[i] = row.view(prediction.shape[1:]) / row.numel()
            parts.append(pull_back(holder, prediction, output))
        return gram_of(parts).tolist()


def pull_back(holder: "TupleAccelerator", prediction: Tensor, output: Tensor) -> Gradients:
    """J^T output for the trained parameters, each of its shape. prediction, output: (B, C, ...).

    A loop of backward passes, because checkpointing and fused attention know no others; the graph stays. In float16 the
    loss scale keeps small gradients from vanishing, and is taken out.
    """
    parameters = trained(holder)
    scale = holder.scaler.get_scale() if holder.scaler is not None else 1.0
    while True:
        for parameter in parameters:
            parameter.grad = None
        prediction.backward((scale * output).to(prediction), retain_graph=True)
        gradients = [None if parameter.grad is None else parameter.grad / scale for parameter in parameters]
        if scale <= 1 or all(bool(torch.isfinite(g).all()) for g in gradients if g is not None):
            break
        scale /= 16
    for parameter in parameters:
        parameter.grad = None
    return gradients
