"""The gradients of a tuple step as lists of tensors: whose they are, averages over processes, inner products."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from sga_kohya.tuples.step import SubBatch
from sga_kohya.words import UNLABELLED

Gradients = list[Tensor | None]  # one for each trained parameter, None where it has none
MIXED = "mixed"


def label_of(sub_batch: SubBatch) -> str:
    """The granularity of all of it; batches in a host's own order may hold several."""
    found = set(sub_batch.granularities)
    return (found.pop() or UNLABELLED) if len(found) == 1 else MIXED


def trained(accelerator: Accelerator) -> list[Tensor]:
    """The parameters that the prepared optimizers train, in their order."""
    groups = [group for optimizer in accelerator._optimizers for group in optimizer.param_groups]
    return [parameter for group in groups for parameter in group["params"] if parameter.requires_grad]


def names_of(accelerator: Accelerator, parameters: Sequence[Tensor]) -> list[str]:
    """Their names in the models that were prepared, without what wrappers put in front."""
    known = {id(p): name for model in accelerator._models for name, p in model.named_parameters()}
    raw = [known.get(id(parameter), f"parameter_{i}") for i, parameter in enumerate(parameters)]
    return [name.removeprefix("module.").removeprefix("_orig_mod.") for name in raw]


def all_labels(accelerator: Accelerator, labels: Sequence[str]) -> list[str]:
    """The labels of all processes, in one order for all."""
    gathered = gather_object(list(labels)) if accelerator.num_processes > 1 else labels
    return sorted(set(gathered))


def averaged(accelerator: Accelerator, parameters: Sequence[Tensor], gradients: Gradients | None) -> Gradients:
    """The mean over processes, each of its parameter's shape.

    A parameter has a gradient if it has one on any process, and None counts as zero.
    """
    own: Gradients = gradients or [None] * len(parameters)
    if accelerator.num_processes == 1:
        return own
    has = torch.tensor([gradient is not None for gradient in own], dtype=torch.float32, device=accelerator.device)
    anywhere = (accelerator.reduce(has, "sum") > 0).tolist()
    return [
        accelerator.reduce(torch.zeros_like(parameter) if gradient is None else gradient, "mean") if wanted else None
        for parameter, gradient, wanted in zip(parameters, own, anywhere, strict=True)
    ]


def average(accelerator: Accelerator, parameters: Sequence[Tensor]) -> None:
    """What the backward pass leaves to us on steps taken apart: accumulated gradients become those of all processes."""
    if accelerator.num_processes > 1:
        put(parameters, averaged(accelerator, parameters, [parameter.grad for parameter in parameters]))


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


def take(parameters: Sequence[Tensor]) -> Gradients:
    """The gradients, each of its parameter's shape, which the parameters then no longer have."""
    gradients = [parameter.grad for parameter in parameters]
    put(parameters, [None] * len(parameters))
    return gradients


def put(parameters: Sequence[Tensor], gradients: Gradients) -> None:
    """Give each parameter its gradient."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def add(held: Gradients | None, fresh: Gradients) -> Gradients:
    """Adds fresh to held in place, as a backward pass accumulates."""
    if held is None:
        return fresh
    return [_added(old, new) for old, new in zip(held, fresh, strict=True)]


def _added(old: Tensor | None, new: Tensor | None) -> Tensor | None:
    if old is None:
        return new
    return old if new is None else old.add_(new)
