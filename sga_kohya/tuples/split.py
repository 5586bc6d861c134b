"""A tuple step taken apart: the gradient of each sub-batch on its own, for those who look at it or change it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, broadcast_object_list
from torch import Tensor

from sga_kohya.config import SgaConfig
from sga_kohya.equations.surgery import surgery_weights
from sga_kohya.errors import SgaError
from sga_kohya.tuples.accelerator import TupleAccelerator
from sga_kohya.tuples.gradients import (
    Gradients,
    add,
    all_labels,
    average,
    averaged,
    gram_of,
    label_of,
    put,
    take,
    trained,
)
from sga_kohya.tuples.probe import Probe
from sga_kohya.tuples.randomness import seed_of
from sga_kohya.tuples.records import Log, figures
from sga_kohya.tuples.step import SubBatch

_OWN_GRADIENTS = (DistributedType.DEEPSPEED, DistributedType.FSDP, DistributedType.MEGATRON_LM)


def attach(
    accelerator: TupleAccelerator, config: SgaConfig, file: Path, note: Callable[[dict[str, float]], None]
) -> None:
    """Give the accelerator an observer where the settings ask for one; else nothing is there to ask.

    file: the records'. note: gets each record's figures; both are of the main process only. Raises SgaError under an
    engine that keeps its gradients to itself.
    """
    if accelerator.distributed_type in _OWN_GRADIENTS and (config.probe_every or config.surgery):
        raise SgaError(
            f"sga_probe_every and sga_gradient_surgery see no gradients under {accelerator.distributed_type.value}, "
            "which keeps them to itself: leave out one or the other"
        )
    log = Log(file, config.metadata())

    def report(record: dict[str, Any]) -> None:
        if accelerator.is_main_process:
            log.append(record)
            note(figures(record))

    probe = Probe(accelerator, config.probe_every, report) if config.probe_every else None
    if probe is not None or config.surgery:
        accelerator.observer = GradientSplit(accelerator, probe, config.surgery)


class GradientSplit:
    """Feeds the probe and performs surgery.

    Each sub-batch's gradient is made beside what was accumulated, which is moved aside meanwhile, and then added to
    it: an exact difference without a copy, and the same sum. Takes one further copy of the trained gradients; with
    surgery one for each granularity. surgery: a method of equations/surgery.py, "" for none.
    """

    def __init__(self, accelerator: TupleAccelerator, probe: Probe | None = None, surgery: str = ""):
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
        held = take(parameters)
        yield
        fresh = take(parameters)
        if self.probe is not None and self._probes(step):
            scale = accelerator.scaler.get_scale() if accelerator.scaler is not None else 1.0
            self.probe.add(label_of(sub_batch), fresh, scale)
        if self.surgery:
            self._apart[label_of(sub_batch)] = add(self._apart.get(label_of(sub_batch)), fresh)
            fresh = self._operate(parameters) if sub_batch.last else [None] * len(parameters)
        put(parameters, add(held, fresh))
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
            total = add(total, gradients)
        return total

    def _generator(self) -> torch.Generator:
        """Of the tuple step, counted over the whole run, so that a resumed run draws the same."""
        accelerator = self.accelerator
        part = accelerator.step % accelerator.gradient_accumulation_steps
        place = (accelerator.progress.seed, accelerator.cursor.step, part, "surgery")
        return torch.Generator().manual_seed(seed_of(place))
