"""A run begins when the host asks for its accelerator: between making data and loading models, or before both."""

import argparse
import functools
import sys
from collections.abc import Callable
from typing import Any

from accelerate import Accelerator

from sga_kohya.errors import SgaError
from sga_kohya.training.accelerator import HostAccelerator
from sga_kohya.training.dataset import RunDataset
from sga_kohya.training.events import Run
from sga_kohya.training.host import Levels
from sga_kohya.training.loop import HostLoop
from sga_kohya.training.memory import Load, Model
from sga_kohya.training.memory_report import largest
from sga_kohya.training.output_folder import hold, is_main_process
from sga_kohya.training.paces import task_of
from sga_kohya.training.plan_report import describe
from sga_kohya.training.preview import show
from sga_kohya.training.session import Session


def accelerator_class(original: type, session: Session, base: type[HostAccelerator] = HostAccelerator) -> type:
    """A subclass of ours in the place of the name `Accelerator`, so that the host's own settings reach it unchanged."""
    if original is not Accelerator:
        raise SgaError(f"another plugin has replaced the host's Accelerator by {original}; use one at a time")
    return type("HostAccelerator", (base,), {"session": session})


def begins_run(
    original: Callable, session: Session, start: Callable[[Session, argparse.Namespace], Levels]
) -> Callable:
    """What takes the place of a host's `prepare_accelerator(args)`.

    start: refuses settings that do not fit the model, by SgaError, and says what the run will draw. The parts hear of
    the run, --sga_show_timesteps ends here, and the plan is printed; the last two wait for data made later.
    """

    @functools.wraps(original)
    def prepare_accelerator(args: argparse.Namespace) -> Any:
        levels = start(session, args)
        session.started(Run(levels.modulation))
        if session.config.show_timesteps:
            session.with_data(lambda dataset: _show_and_end(dataset, session, levels))
        hold(session, args)
        session.loop = HostLoop(args)
        asked = functools.cache(functools.partial(largest, levels=levels))
        session.with_data(lambda dataset: _know_task(session, asked(dataset)))
        accelerator = original(args)
        if accelerator.is_main_process:
            session.with_data(lambda dataset: print(describe(dataset, session.config, levels, args, asked(dataset))))
        return accelerator

    return prepare_accelerator


def _know_task(session: Session, asked: tuple[Model, Load] | None) -> None:
    session.task = None if asked is None else task_of(*asked)


def _show_and_end(dataset: RunDataset, session: Session, levels: Levels) -> None:
    if is_main_process():
        print(show(dataset.planner.groups.counts(), session.config, levels), flush=True)
    sys.exit(0)
