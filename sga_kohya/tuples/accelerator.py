"""An Accelerator whose optimizer step is a tuple step (Algorithm 2 of arXiv:2603.10785).

The training loop stays as it is: it still sees one batch at a time and asks `sync_gradients` whether to step.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, send_to_device
from torch.utils.data import DataLoader

from sga_kohya.errors import SgaError
from sga_kohya.tuples import states
from sga_kohya.tuples.cursor import Cursor
from sga_kohya.tuples.loader import TupleDataset, TupleLoader, with_sampler
from sga_kohya.tuples.observer import GradientObserver
from sga_kohya.tuples.randomness import Place, seed_all
from sga_kohya.tuples.step import SubBatch

# Engines that decide by themselves when gradients are synchronised and the optimizer steps. DeepSpeed can be told.
_OWN_STEPS = (DistributedType.FSDP, DistributedType.MEGATRON_LM)
# Engines whose processes each hold a part of the model's or the optimizer's state.
_SHARDED = (DistributedType.DEEPSPEED, *_OWN_STEPS)


class TupleAccelerator(Accelerator):
    """Gradient synchronisation, clipping and stepping happen once a tuple step (times gradient_accumulation_steps).

    A state saved by `save_state` is resumed exactly: `load_state` moves the cursor, and the loader begins there.

    current: the sub-batch being trained on, None outside `accumulate()`, so validation and sampling stay untouched.
    progress: how far the run has come, and its states. first_epoch: the number of the first. stopped: set it to have no
    further batches. after_step: called after each optimizer step. observer: sees the sub-batches' gradients of the
    steps it wants, one by one.
    """

    first_epoch = 0

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.step: int = 0
        self.current: SubBatch | None = None
        self.progress = states.Progress(self, self.first_epoch)
        self.stopped = False
        self.after_step: Callable[[], None] = lambda: None
        self.observer: GradientObserver | None = None
        self._waiting_since = time.perf_counter()
        self._handed_out: tuple[SubBatch, bool] | None = None
        self._prepared_models: list[torch.nn.Module] = []

    def prepare_data_loader(
        self, data_loader: DataLoader, device_placement: bool | None = None, slice_fn_for_dispatch: Any = None
    ) -> Any:
        """As accelerate's, but a loader over a TupleDataset is sharded by tuple steps and yields sub-batches."""
        dataset = data_loader.dataset
        if not isinstance(dataset, TupleDataset):
            return super().prepare_data_loader(data_loader, device_placement, slice_fn_for_dispatch)
        sampler = dataset.sampler(data_loader)
        if sampler is not None:
            self._check_engine()
            data_loader = with_sampler(data_loader, sampler)
        # Placement is the TupleLoader's: accelerate would move the whole step at once.
        prepared = super().prepare_data_loader(data_loader, device_placement=False)
        loader = TupleLoader(prepared, self, sampler.epoch if sampler else None)
        self.progress.follow(dataset, len(loader) if loader.ordered else None)
        return loader

    def skip_first_batches(self, dataloader: Any, num_batches: int = 0) -> Any:
        """As accelerate's; a loader of planned tuple steps is refused, because that would break steps apart."""
        if not isinstance(dataloader, TupleLoader):
            return super().skip_first_batches(dataloader, num_batches)
        if dataloader.ordered:
            raise SgaError("tuple steps cannot be skipped batch by batch: --resume alone goes on where the state was")
        return dataloader.without(num_batches)

    def save_state(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> str:
        """As accelerate's, with the cursor; the folder appears only when everything in it is written.

        One process saves: random numbers depend on the cursor, so the others have nothing to add, unless an engine
        keeps a part of the model in each.
        """
        if output_dir is None:
            return super().save_state(output_dir, *args, **kwargs)
        together = self.distributed_type in _SHARDED and self.num_processes > 1
        if self.is_main_process or together:
            with self.progress.saving(Path(output_dir), together) as part:
                super().save_state(str(part), *args, **kwargs)
        return str(output_dir)

    def load_state(self, input_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        """As accelerate's, with the cursor. Where the plan is no longer the same, its epoch's data begin anew.

        Raises SgaError naming a state of the run that is whole, where this one is not.
        """
        if input_dir is None:
            super().load_state(input_dir, *args, **kwargs)
            return
        folder = states.standing(Path(input_dir))
        with states.readable(folder):
            super().load_state(str(folder), *args, **kwargs)
        self.progress.load(folder)

    @property
    def cursor(self) -> Cursor:
        """How far the run has come."""
        return self.progress.cursor

    @property
    def resumes(self) -> bool:
        """Whether a state was loaded whose epoch has not yet begun."""
        return self.progress.resumed is not None

    def begin_epoch(self, epoch: int | None) -> int | None:
        """See loader.Consumer."""
        return None if self.stopped else self.progress.begin_epoch(epoch)

    def wait(self) -> None:
        """See loader.Consumer."""
        self._waiting_since = time.perf_counter()

    def present(self, sub_batch: SubBatch, place: Place | None, ends_epoch: bool) -> None:
        """See loader.Consumer."""
        if place is not None:
            seed_all((*place, self.process_index, "training"))
        self._handed_out = (sub_batch, ends_epoch)
        self.progress.ends_epoch = sub_batch.last and ends_epoch

    def to_device(self, batch: Any) -> Any:
        """See loader.Consumer."""
        if not self.device_placement:
            return batch
        return send_to_device(batch, self.device, non_blocking=self.non_blocking)

    def skip_steps(self, loader: DataLoader, count: int) -> DataLoader:
        """See loader.Consumer."""
        return super().skip_first_batches(loader, count)

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
            if self.distributed_type == DistributedType.DEEPSPEED:
                self.deepspeed_engine_wrapped.engine.set_gradient_accumulation_boundary(self.sync_gradients)
            elif not self.sync_gradients or self._watched is not None:
                # All prepared models, not only those given: some scripts of sd-scripts give the module from before it
                # was wrapped, and ranks whose steps have different numbers of sub-batches would wait for each other.
                for model in self._prepared_models:
                    stack.enter_context(self.no_sync(model))
            try:
                yield
            finally:
                self.current = None
        self.cursor.seconds += time.perf_counter() - self._waiting_since
        if self.sync_gradients:
            self.cursor.step += 1
            self.after_step()

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        """As accelerate's, with the loss times the current sub-batch's weight (Eq. 6)."""
        if self.current is not None and self.current.weight != 1.0:
            loss = loss * self.current.weight
        observer = self._watched
        if observer is None or self.current is None:
            super().backward(loss, **kwargs)
            return
        with observer.watch(self.current, self.sync_gradients):
            super().backward(loss, **kwargs)

    @property
    def _watched(self) -> GradientObserver | None:
        """Who wants the gradients of the optimizer step in hand apart."""
        wanted = self.observer is not None and self.observer.wants(self.cursor.step + 1)
        return self.observer if wanted else None

    def _check_engine(self) -> None:
        """Raises SgaError where steps cannot follow tuples."""
        engine = self.distributed_type
        if engine in _OWN_STEPS:
            raise SgaError(f"tuples do not work under {engine.value}, which counts batches on its own")
        if engine != DistributedType.DEEPSPEED or self.num_processes == 1:
            return
        stage = self.state.deepspeed_plugin.zero_stage
        if stage > 1:
            raise SgaError(
                f"tuples do not work under DeepSpeed's ZeRO stage {stage} with several processes: it waits for all of "
                "them at each sub-batch, and their tuple steps have different numbers. Use zero_stage 0 or 1"
            )

    def _closes_step(self, sub_batch: SubBatch, ends_epoch: bool) -> bool:
        if not sub_batch.last:
            return False
        # accelerate counts batches in `step` and saves it with the state; here it counts tuple steps.
        self.step += 1
        self.progress.made(sub_batch)
        if ends_epoch and self.gradient_state.sync_with_dataloader:
            self.step = 0
            return True
        return self.step % self.gradient_accumulation_steps == 0
