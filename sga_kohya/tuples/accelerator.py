"""An Accelerator whose optimizer step is a tuple step (Algorithm 2 of arXiv:2603.10785).

The training loop stays as it is: it still sees one batch at a time and asks `sync_gradients` whether to step.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, send_to_device
from torch.utils.data import DataLoader

from sga_kohya.errors import SgaError
from sga_kohya.tuples.loader import TupleDataset, TupleLoader, with_sampler
from sga_kohya.tuples.step import SubBatch

# Engines that decide by themselves when gradients are synchronised and the optimizer steps.
_OWN_STEPS = (DistributedType.DEEPSPEED, DistributedType.FSDP, DistributedType.MEGATRON_LM)


class TupleAccelerator(Accelerator):
    """Gradient synchronisation, clipping and stepping happen once a tuple step (times gradient_accumulation_steps).

    current: the sub-batch being trained on, None outside `accumulate()`, so validation and sampling stay untouched.
    after_step: called after each optimizer step.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.step: int = 0
        self.current: SubBatch | None = None
        self.after_step: Callable[[], None] = lambda: None
        self._handed_out: tuple[SubBatch, bool] | None = None
        self._prepared_models: list[torch.nn.Module] = []

    def prepare_data_loader(
        self, data_loader: DataLoader, device_placement: bool | None = None, slice_fn_for_dispatch: Any = None
    ) -> Any:
        """As accelerate's, but a loader over a TupleDataset is sharded by tuple steps and yields sub-batches."""
        dataset = data_loader.dataset
        if not isinstance(dataset, TupleDataset):
            return super().prepare_data_loader(data_loader, device_placement, slice_fn_for_dispatch)
        if self.distributed_type in _OWN_STEPS:
            raise SgaError(f"tuples do not work under {self.distributed_type.value}, which counts batches on its own")
        sampler = dataset.sampler(data_loader)
        if sampler is not None:
            data_loader = with_sampler(data_loader, sampler)
        # Placement is the TupleLoader's: accelerate would move the whole step at once.
        prepared = super().prepare_data_loader(data_loader, device_placement=False)
        return TupleLoader(prepared, self._present, self._to_device)

    def skip_first_batches(self, dataloader: Any, num_batches: int = 0) -> Any:
        """As accelerate's; a loader of tuple steps is refused, because skipping batches would break steps apart."""
        if isinstance(dataloader, TupleLoader):
            raise SgaError("tuple steps cannot be skipped batch by batch: train without skip_until_initial_step")
        return super().skip_first_batches(dataloader, num_batches)

    def prepare_model(
        self, model: torch.nn.Module, device_placement: bool | None = None, evaluation_mode: bool = False
    ) -> Any:
        """As accelerate's, but several CPU processes do not wrap a frozen model, as several GPUs do not.

        accelerate wraps it there all the same, and DistributedDataParallel refuses it.
        """
        frozen = not any(parameter.requires_grad for parameter in model.parameters())
        if frozen and self.distributed_type == DistributedType.MULTI_CPU:
            evaluation_mode = True
        prepared = super().prepare_model(model, device_placement, evaluation_mode)
        self._prepared_models.append(prepared)
        return prepared

    @contextlib.contextmanager
    def accumulate(self, *models: torch.nn.Module) -> Iterator[None]:
        """As accelerate's, with the step closed by the last sub-batch of a tuple step instead of by every batch."""
        if self._handed_out is None:
            with super().accumulate(*models):
                yield
            return
        self.current, ends_epoch = self._handed_out
        self.sync_gradients = self._closes_step(self.current, ends_epoch)
        with contextlib.ExitStack() as stack:
            if not self.sync_gradients:
                # All prepared models, not only those given: some scripts of sd-scripts give the module from before it
                # was wrapped, and ranks whose steps have different numbers of sub-batches would wait for each other.
                for model in self._prepared_models:
                    stack.enter_context(self.no_sync(model))
            try:
                yield
            finally:
                self.current = None
        if self.sync_gradients:
            self.after_step()

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        """As accelerate's, with the loss times the current sub-batch's weight (Eq. 6)."""
        if self.current is not None and self.current.weight != 1.0:
            loss = loss * self.current.weight
        super().backward(loss, **kwargs)

    def _closes_step(self, sub_batch: SubBatch, ends_epoch: bool) -> bool:
        if not sub_batch.last:
            return False
        # accelerate counts batches in `step` and saves it with the state; here it counts tuple steps.
        self.step += 1
        if ends_epoch and self.gradient_state.sync_with_dataloader:
            self.step = 0
            return True
        return self.step % self.gradient_accumulation_steps == 0

    def _present(self, sub_batch: SubBatch, ends_epoch: bool) -> None:
        self._handed_out = (sub_batch, ends_epoch)

    def _to_device(self, batch: Any) -> Any:
        if not self.device_placement:
            return batch
        return send_to_device(batch, self.device, non_blocking=self.non_blocking)
