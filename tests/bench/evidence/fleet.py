"""Many small models trained at once: their weights are rows of one tensor, their passes one batched call.

Every model is the product's (reference/models.py) and so are its noise and loss (reference/objectives.py); only the
optimizer loop is of our own, as the reference trainer's holds one model. test_evidence.py holds both to one another.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from sga_kohya.reference.denoiser import Denoiser
from sga_kohya.reference.objectives import Noised, Objective
from sga_kohya.tuples.step import SubBatch

MAX_GRAD_NORM = 1.0
BETAS, EPSILON, DECAY = (0.9, 0.999), 1e-8, 0.01  # torch.optim.AdamW's own, as the reference trainer uses it
RANK_STD = 0.02

Batch = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""noisy (M, B, C, H, W), timesteps (M, B), tokens (M, B, L, D) and pooled (M, B, P) or None."""


class Trained:
    """What is trained of a network, by name and shape, and the whole network's weights for a value of it.

    rank: 0 for all weights, else that of an adapter on the linear layers of the blocks; dora: with magnitudes.
    """

    def __init__(self, denoiser: Denoiser, rank: int = 0, dora: bool = False):
        self.base = {name: value.detach().clone() for name, value in denoiser.named_parameters()}
        self.rank, self.dora = rank, dora
        blocks = ("blocks.", "attentions.")
        self.adapted = [n for n, v in self.base.items() if v.dim() == 2 and any(b in n for b in blocks)] if rank else []

    def begin(self, seed: int) -> dict[str, Tensor]:
        """Where training starts: the network as it was pretrained."""
        if not self.rank:
            return {name: value.clone() for name, value in self.base.items()}
        generator = torch.Generator().manual_seed(seed)
        found = {}
        for name in self.adapted:
            weight = self.base[name]
            found[f"{name}/down"] = RANK_STD * torch.randn(self.rank, weight.shape[1], generator=generator).to(weight)
            found[f"{name}/up"] = torch.zeros(weight.shape[0], self.rank).to(weight)
            if self.dora:
                found[f"{name}/magnitude"] = weight.norm(dim=1, keepdim=True)
        return found

    def weights(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of the whole network, one model."""
        if not self.rank:
            return values
        whole = dict(self.base)
        for name in self.adapted:
            weight = self.base[name] + values[f"{name}/up"] @ values[f"{name}/down"]
            if self.dora:
                weight = values[f"{name}/magnitude"] * weight / weight.norm(dim=1, keepdim=True)
            whole[name] = weight
        return whole


@dataclass
class Recorded:
    """What a model's optimizer steps were like. Sums over steps."""

    steps: int = 0
    slices: int = 0
    cosine: float = 0.0
    update_cosine: float = 0.0
    compared: int = 0
    squared: float = 0.0
    path: float = 0.0
    signal: list[float] = field(default_factory=list)
    """|mean g|^2 / mean |g|^2 of each window."""


@dataclass(frozen=True)
class Member:
    """One model's run. stream: its sub-batches. load: keys to (latents (B, C, H, W), captions)."""

    stream: Iterator[SubBatch]
    objective: Objective
    lr: float
    seed: int
    load: Callable[[Sequence[str]], tuple[Tensor, list[str]]]


class Fleet:
    """Trains members side by side, pass for pass. window: passes over which gradients are averaged for `signal`."""

    def __init__(
        self,
        denoiser: Denoiser,
        trained: Trained,
        members: Sequence[Member],
        text: Callable[[Sequence[str]], tuple[Tensor, Tensor | None]],
        batch_size: int,
        window: int = 48,
    ):
        self.denoiser, self.trained, self.members, self.text = denoiser, trained, members, text
        self.batch_size, self.window = batch_size, window
        device = next(iter(trained.base.values())).device
        begun = [trained.begin(member.seed) for member in members]
        shapes = {name: value.shape for name, value in begun[0].items()}
        self.theta = torch.stack([torch.cat([v.flatten() for v in start.values()]) for start in begun]).to(device)
        self.start = self.theta.clone()
        self.grad = torch.zeros_like(self.theta)
        self.moment, self.square, self.before, self.moved, self.total = (torch.zeros_like(self.theta) for _ in range(5))
        self.total_squared = [0.0] * len(members)
        self.total_steps = [0] * len(members)
        self.lr = [member.lr for member in members]
        self.recorded = [Recorded() for _ in members]
        self.generators = [torch.Generator().manual_seed(1000 + member.seed) for member in members]
        self.values = self._views(shapes)
        self.passes = 0

    def _views(self, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
        """Leaves whose memory is rows of theta, and whose gradients accumulate into rows of grad."""
        values, at = {}, 0
        for name, shape in shapes.items():
            size = shape.numel()
            leaf = self.theta[:, at : at + size].view(-1, *shape).detach().requires_grad_()
            leaf.grad = self.grad[:, at : at + size].view(-1, *shape)
            values[name], at = leaf, at + size
        return values

    def predict(self, values: dict[str, Tensor], batch: Batch) -> Tensor:
        """(M, B, C, H, W)."""

        def one(values: dict[str, Tensor], x: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor | None) -> Tensor:
            return functional_call(self.denoiser, self.trained.weights(values), (x, t, tokens, pooled))

        dims = (0, 0, 0, 0, None if batch[3] is None else 0)
        # Fused attention has no batched form on a processor, and on a card one whose backward pass refuses these sizes.
        with sdpa_kernel(SDPBackend.MATH):
            return vmap(one, in_dims=dims)(values, *batch)

    def _losses(self, values: dict[str, Tensor], batch: Batch, target: Tensor) -> Tensor:
        """Mean squared errors, (M, B)."""
        return (self.predict(values, batch) - target).square().mean(dim=(2, 3, 4))

    def train(self, passes: int) -> None:
        """That many sub-batches of each member, with an optimizer step of a member after each of its tuple steps."""
        for _ in range(passes):
            parts = [next(member.stream) for member in self.members]
            batch, target, share = self._prepared(parts)
            losses = self._losses(self.values, batch, target)
            (losses * share).sum().backward()
            self.passes += 1
            self._update([number for number, part in enumerate(parts) if part.last])

    def _prepared(self, parts: Sequence[SubBatch]) -> tuple[Batch, Tensor, Tensor]:
        """Noised sub-batches of all members, padded to batch_size with samples that count nothing."""
        rows = []
        for part, member, generator, recorded in zip(parts, self.members, self.generators, self.recorded, strict=True):
            latents, captions = member.load(part.keys)
            noised = member.objective(latents, part.granularities, generator)
            share = noised.weight * part.weight / len(part.keys)
            rows.append((noised, share, *self.text(captions)))
            recorded.slices += len(part.keys)
        return self._stacked(rows)

    def _stacked(self, rows: list[tuple[Noised, Tensor, Tensor, Tensor | None]]) -> tuple[Batch, Tensor, Tensor]:
        device = self.theta.device

        def column(values: Sequence[Tensor]) -> Tensor:
            return torch.stack([_padded(value, self.batch_size) for value in values]).to(device)

        pooled = None if rows[0][3] is None else column([row[3] for row in rows])  # type: ignore[misc]
        batch = (
            column([row[0].noisy for row in rows]),
            column([row[0].timesteps for row in rows]).float(),
            column([row[2] for row in rows]),
            pooled,
        )
        share = torch.stack([_filled(row[1], self.batch_size) for row in rows]).to(device)
        return batch, column([row[0].target for row in rows]), share

    @torch.no_grad()
    def _update(self, rows: list[int]) -> None:
        """AdamW for the members whose step is complete: on a processor row by row, as a row fits its cache."""
        if self.theta.device.type == "cpu":
            for row in rows:
                self._step([row], slice(row, row + 1))
        elif rows:
            self._step(rows, torch.tensor(rows, device=self.theta.device))
        if self.passes % self.window == 0:
            self._close_window()

    def _step(self, rows: list[int], at: slice | Tensor) -> None:
        """at: the rows as they index a tensor. A slice gives views, which need not be written back."""
        grad, theta, moment, square = self.grad[at], self.theta[at], self.moment[at], self.square[at]
        for row in rows:
            self.recorded[row].steps += 1
        count = torch.tensor([[self.recorded[row].steps] for row in rows], device=theta.device)
        rate = torch.tensor([[self.lr[row]] for row in rows], device=theta.device)
        norms = grad.norm(dim=1)
        cosines = _cosines(grad, self.before[at])
        self.before[at] = grad
        self.total[at] += grad
        clipped = grad * (MAX_GRAD_NORM / (norms + 1e-6)).clamp(max=1)[:, None]
        moment.lerp_(clipped, 1 - BETAS[0])
        square.mul_(BETAS[1]).addcmul_(clipped, clipped, value=1 - BETAS[1])
        step = moment / (square.sqrt() / (1 - BETAS[1] ** count).sqrt() + EPSILON)
        step.mul_(-rate / (1 - BETAS[0] ** count)).sub_(theta * (rate * DECAY))
        updates = _cosines(step, self.moved[at])
        self.moved[at] = step
        self.theta[at] = theta + step
        self.grad[at] = 0.0
        if isinstance(at, Tensor):
            self.moment[at], self.square[at] = moment, square
        self._record(rows, torch.stack([norms, cosines, updates, step.norm(dim=1)]).tolist())

    def _record(self, rows: list[int], found: list[list[float]]) -> None:
        for row, norm, cosine, update, length in zip(rows, *found, strict=True):
            recorded = self.recorded[row]
            if recorded.steps > 1:
                recorded.cosine += cosine
                recorded.update_cosine += update
                recorded.compared += 1
            recorded.path += length
            self.total_squared[row] += norm * norm
            self.total_steps[row] += 1

    def _close_window(self) -> None:
        for row, recorded in enumerate(self.recorded):
            steps = self.total_steps[row]
            if steps:
                mean = float(self.total[row].square().sum()) / steps**2
                recorded.signal.append(mean / (self.total_squared[row] / steps + 1e-30))
            self.total_squared[row], self.total_steps[row] = 0.0, 0
        self.total.zero_()

    def smoothness(self) -> list[dict[str, float]]:
        """Of each member: cosines of consecutive gradients and updates, signal, path efficiency, steps and slices."""
        straight = (self.theta - self.start).norm(dim=1).tolist()
        return [
            {
                "cosine": r.cosine / max(1, r.compared),
                "update_cosine": r.update_cosine / max(1, r.compared),
                "signal": sum(r.signal) / max(1, len(r.signal)),
                "efficiency": line / (r.path + 1e-30),
                "moved": line,
                "steps": r.steps,
                "slices": r.slices,
            }
            for r, line in zip(self.recorded, straight, strict=True)
        ]


def _cosines(left: Tensor, right: Tensor) -> Tensor:
    """Of rows, (R,); 0 where one is zero."""
    return (left * right).sum(1) / (left.norm(dim=1) * right.norm(dim=1) + 1e-30)


def _padded(value: Tensor, size: int) -> Tensor:
    """The first sample again and again, up to `size` of them."""
    return value if len(value) == size else torch.cat([value, value[:1].expand(size - len(value), *value.shape[1:])])


def _filled(share: Tensor, size: int) -> Tensor:
    return torch.cat([share, share.new_zeros(size - len(share))])


def plain_batches(count: int, size: int, seed: int) -> Iterator[SubBatch]:
    """Sub-batches of numbers below `count` without granularities, each a step: for pretraining."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for chunk in torch.randperm(count, generator=generator).split(size):
            if len(chunk) == size:
                yield SubBatch(0, tuple(map(str, chunk.tolist())), (None,) * size)
