"""A tuple step taken apart: the gradient of each sub-batch on its own, for those who look at it or change it.

`GradientObserver` is all the accelerator knows. Steps that nobody wants pass by it: nothing is hooked or allocated.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from sga_kohya.equations.surgery import surgery_weights
from sga_kohya.tuples.randomness import seed_of
from sga_kohya.tuples.step import SubBatch

if TYPE_CHECKING:
    from sga_kohya.tuples.accelerator import TupleAccelerator
    from sga_kohya.tuples.probe import Probe

Gradients = list[Tensor | None]  # one for each trained parameter, None where it has none
UNLABELLED, MIXED = "unlabelled", "mixed"


class GradientObserver(Protocol):
    """Sees the optimizer steps it wants, sub-batch by sub-batch. All processes must give the same answers."""

    def wants(self, step: int) -> bool:
        """Whether the gradients of this optimizer step, counted from 1, are taken apart. They are then not
        synchronised by the backward pass, but here."""
        ...

    def watch(self, sub_batch: SubBatch, closes_step: bool) -> contextlib.AbstractContextManager[None]:
        """Entered around the backward pass of each sub-batch of such a step."""
        ...


class GradientSplit:
    """Feeds the probe and performs surgery.

    Each sub-batch's gradient is made beside what was accumulated, which is moved aside meanwhile, and then added to
    it: an exact difference without a copy, and the same sum. Takes one further copy of the trained gradients; with
    surgery one for each granularity. surgery: a method of equations/surgery.py, "" for none.
    """

    def __init__(self, accelerator: "TupleAccelerator", probe: "Probe | None" = None, surgery: str = ""):
        self.accelerator, self.probe, self.surgery = accelerator, probe, surgery
        self._apart: dict[str, Gradients] = {}

    def wants(self, step: int) -> bool:
        """See GradientObserver."""
        return bool(self.surgery) or self._probes(step)

    @contextlib.contextmanager
    def watch(self, sub_batch: SubBatch, closes_step: bool) -> Iterator[None]:
        """See GradientObserver."""
        accelerator, step = self.accelerator, self.accelerator.cursor.step + 1
        parameters = trained(accelerator)
        held = _take(parameters)
        yield
        fresh = _take(parameters)
        if self.probe is not None and self._probes(step):
            scale = accelerator.scaler.get_scale() if accelerator.scaler is not None else 1.0
            self.probe.add(label_of(sub_batch), fresh, scale)
        if self.surgery:
            self._apart[label_of(sub_batch)] = _sum(self._apart.get(label_of(sub_batch)), fresh)
            fresh = self._operate(parameters) if sub_batch.last else [None] * len(parameters)
        _put(parameters, _sum(held, fresh))
        if closes_step:
            if not self.surgery:
                average(accelerator, parameters)
            if self.probe is not None and self._probes(step):
                self.probe.finish(step)

    def _probes(self, step: int) -> bool:
        return self.probe is not None and self.probe.due(step)

    def _operate(self, parameters: Sequence[Tensor]) -> Gradients:
        """The tuple step's new gradient, from the granularities' gradients averaged over processes.

        Processes may hold different granularities in a step: one that lacks a granularity adds nothing to its average,
        as in the plain sum.
        """
        accelerator, apart = self.accelerator, self._apart
        labels = all_labels(accelerator, list(apart))
        split = [averaged(accelerator, parameters, apart.pop(label, None)) for label in labels]
        weights = surgery_weights(self.surgery, gram_of(split), self._generator()).tolist()
        if accelerator.num_processes > 1:
            # One bit of difference between processes could flip a sign, and their weights would part for good.
            weights = broadcast_object_list([weights])[0]
        total: Gradients = [None] * len(parameters)
        for gradients, weight in zip(split, weights, strict=True):
            for gradient in gradients:
                if gradient is not None and weight != 1.0:
                    gradient.mul_(weight)
            total = _sum(total, gradients)
        return total

    def _generator(self) -> torch.Generator:
        """Of the tuple step, counted over the whole run, so that a resumed run draws the same."""
        accelerator, dataset = self.accelerator, self.accelerator._dataset
        part = accelerator.step % accelerator.gradient_accumulation_steps
        place = (dataset.seed if dataset is not None else 0, accelerator.cursor.step, part)
        return torch.Generator().manual_seed(seed_of((*place, "surgery")))


def label_of(sub_batch: SubBatch) -> str:
    """The granularity of all of it; batches in a host's own order may hold several."""
    found = set(sub_batch.granularities)
    return (found.pop() or UNLABELLED) if len(found) == 1 else MIXED


def trained(accelerator: "TupleAccelerator") -> list[Tensor]:
    """The parameters that the prepared optimizers train, in their order."""
    groups = [group for optimizer in accelerator._optimizers for group in optimizer.param_groups]
    return [parameter for group in groups for parameter in group["params"] if parameter.requires_grad]


def names_of(accelerator: "TupleAccelerator", parameters: Sequence[Tensor]) -> list[str]:
    """Their names in the prepared models, without what wrappers put in front."""
    known = {id(p): name for model in accelerator._prepared_models for name, p in model.named_parameters()}
    raw = [known.get(id(parameter), f"parameter_{i}") for i, parameter in enumerate(parameters)]
    return [name.removeprefix("module.").removeprefix("_orig_mod.") for name in raw]


def all_labels(accelerator: "TupleAccelerator", labels: Sequence[str]) -> list[str]:
    """The labels of all processes, in one order for all."""
    gathered = gather_object(list(labels)) if accelerator.num_processes > 1 else labels
    return sorted(set(gathered))


def averaged(accelerator: "TupleAccelerator", parameters: Sequence[Tensor], gradients: Gradients | None) -> Gradients:
    """The mean over processes. A parameter has a gradient if it has one on any process, and None counts as zero."""
    own: Gradients = gradients or [None] * len(parameters)
    if accelerator.num_processes == 1:
        return own
    has = torch.tensor([gradient is not None for gradient in own], dtype=torch.float32, device=accelerator.device)
    anywhere = (accelerator.reduce(has, "sum") > 0).tolist()
    return [
        accelerator.reduce(torch.zeros_like(parameter) if gradient is None else gradient, "mean") if wanted else None
        for parameter, gradient, wanted in zip(parameters, own, anywhere, strict=True)
    ]


def average(accelerator: "TupleAccelerator", parameters: Sequence[Tensor]) -> None:
    """What the backward pass leaves to us on steps taken apart: accumulated gradients become those of all processes."""
    if accelerator.num_processes > 1:
        _put(parameters, averaged(accelerator, parameters, [parameter.grad for parameter in parameters]))


def gram_of(split: Sequence[Gradients]) -> Tensor:
    """<g_i, g_j> over all parameters, (K, K), each parameter's product in float32."""
    total = torch.zeros(len(split), len(split), dtype=torch.float64)
    for tensors in zip(*split, strict=True):
        known = [(i, tensor) for i, tensor in enumerate(tensors) if tensor is not None]
        if known:
            rows = [tensor.flatten().float() for _, tensor in known]
            at = torch.tensor([i for i, _ in known])
            total[at[:, None], at] += products(rows).double().cpu()
    return total


def products(rows: Sequence[Tensor]) -> Tensor:
    """<row_i, row_j> in float32, by dot products: a matrix product could be TF32. rows: (n,) each. Returns (K, K)."""
    return torch.stack([torch.dot(left, right) for left in rows for right in rows]).view(len(rows), len(rows))


def _take(parameters: Sequence[Tensor]) -> Gradients:
    """The gradients, which the parameters then no longer have."""
    gradients = [parameter.grad for parameter in parameters]
    _put(parameters, [None] * len(parameters))
    return gradients


def _put(parameters: Sequence[Tensor], gradients: Gradients) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def _sum(held: Gradients | None, fresh: Gradients) -> Gradients:
    """Adds fresh to held in place, as a backward pass accumulates."""
    if held is None:
        return fresh
    return [new if old is None else old if new is None else old.add_(new) for old, new in zip(held, fresh, strict=True)]
