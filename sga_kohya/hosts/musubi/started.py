"""Seams: when the host has parsed its arguments and made its data, the run begins.

Its losses are not to be had before they are averaged, in some scripts not even in a function of their own, so they are
heard where every script hands them over: in `backward`.
"""

import argparse
from collections.abc import Callable
from typing import Any

from torch import Tensor

from sga_kohya.hosts.musubi.families import Family, check_mode
from sga_kohya.hosts.musubi.levels import Levels
from sga_kohya.hosts.seam import Seam
from sga_kohya.training.accelerator import HostAccelerator
from sga_kohya.training.begin import accelerator_class, begins_run
from sga_kohya.training.session import Session

TARGET = "musubi_tuner.hv_train_network.prepare_accelerator"


class HearingAccelerator(HostAccelerator):
    """Lets the parts hear each loss."""

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        super().backward(self.session.weighed(loss), **kwargs)


def _replace_class(original: type, session: Session) -> type:
    return accelerator_class(original, session, HearingAccelerator)


def seams(family: Family) -> list[Seam]:
    def start(session: Session, args: argparse.Namespace) -> Levels:
        check_mode(session.config, args, family)
        return Levels(args, session.config, family)

    def _replace(original: Callable, session: Session) -> Callable:
        return begins_run(original, session, start)

    return [
        Seam("accelerator class", TARGET, ("args",), _replace_class, inside="Accelerator"),
        Seam("start", TARGET, ("args",), _replace),
    ]
