"""Seams: the host's accelerator becomes a TupleAccelerator.

Every script gets its accelerator from `prepare_accelerator(args)`, between making the dataset and loading models. The
name `Accelerator` in the module that owns that function is replaced, so the host's own settings reach ours unchanged;
the function itself is wrapped to print the plan at the moment when data and arguments are both known.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.utils.data import DataLoader

from sga_kohya.errors import SgaError
from sga_kohya.seams.dataset import HostDatasetGroup
from sga_kohya.seams.host import Seam
from sga_kohya.seams.report import describe
from sga_kohya.seams.session import Session
from sga_kohya.tuples.accelerator import TupleAccelerator

_TARGET = "library.train_util.prepare_accelerator"


def _replace_class(original: type, session: Session) -> type:
    if original is not Accelerator:
        raise SgaError(f"another plugin has replaced the host's Accelerator by {original}; use one at a time")

    class HostAccelerator(TupleAccelerator):
        """A TupleAccelerator that the session's other seams can ask for the current sub-batch."""

        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            session.accelerator = self
            self.after_step = self._after_first_step

        def prepare_data_loader(self, data_loader: DataLoader, *args: Any, **kwargs: Any) -> Any:
            if isinstance(data_loader.dataset, HostDatasetGroup):
                session.fire("accelerator")
                # Without --seed the host draws one in each process, but all ranks must follow one plan.
                planner = data_loader.dataset.planner
                (planner.seed,) = broadcast_object_list([planner.seed])
            return super().prepare_data_loader(data_loader, *args, **kwargs)

        def _after_first_step(self) -> None:
            self.after_step = lambda: None
            session.verify()

    return HostAccelerator


def _replace_function(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def prepare_accelerator(args: argparse.Namespace) -> Accelerator:
        if session.dataset is None:
            raise SgaError("SGA cannot see into a --dataset_class of your own: use --dataset_config, or --sga=false")
        accelerator = original(args)
        if accelerator.is_main_process:
            print(describe(session.dataset, session.config, args))
        return accelerator

    return prepare_accelerator


CLASS_SEAM = Seam("accelerator class", _TARGET, ("args",), _replace_class, inside="Accelerator")
SEAM = Seam("accelerator", _TARGET, ("args",), _replace_function)
