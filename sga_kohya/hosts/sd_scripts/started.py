"""Seams: when the host has parsed its arguments and made its data, the run starts.

`prepare_accelerator(args)` is the first function that every script calls with its arguments, between making the dataset
and loading models. Settings that do not fit are refused here, --sga_show_timesteps ends here, and the plan is printed.
The name `Accelerator` in the module that owns the function is replaced, so the host's own settings reach ours
unchanged. What happens around steps and epochs is done where the accelerator learns of them.
"""

import argparse
import functools
import os
import sys
from collections.abc import Callable

from accelerate import Accelerator

from sga_kohya.errors import SgaError
from sga_kohya.hosts.sd_scripts.families import check_modulation, check_path, family_of
from sga_kohya.hosts.sd_scripts.levels import Levels
from sga_kohya.hosts.seam import Seam
from sga_kohya.training.accelerator import HostAccelerator
from sga_kohya.training.events import Run
from sga_kohya.training.loop import HostLoop
from sga_kohya.training.plan_report import describe
from sga_kohya.training.preview import show
from sga_kohya.training.session import Session


def _replace_class(original: type, session: Session) -> type:
    if original is not Accelerator:
        raise SgaError(f"another plugin has replaced the host's Accelerator by {original}; use one at a time")
    return type("HostAccelerator", (HostAccelerator,), {"session": session})


def _replace(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def prepare_accelerator(args: argparse.Namespace) -> Accelerator:
        start(session, args)
        dataset, first = session.dataset, int(os.environ.get("RANK", 0)) == 0
        if dataset is None:
            raise SgaError("SGA cannot see into a --dataset_class of your own: use --dataset_config, or --sga=false")
        levels = Levels(args, session.config)
        if session.config.show_timesteps:
            if first:
                print(show(dataset.planner.groups, session.config, levels), flush=True)
            sys.exit(0)
        session.loop = HostLoop(args)
        accelerator = original(args)
        if accelerator.is_main_process:
            print(describe(dataset, session.config, levels))
        return accelerator

    return prepare_accelerator


def start(session: Session, args: argparse.Namespace) -> None:
    """Tell the parts what is trained. Raises SgaError where the settings do not fit it."""
    config, family = session.config, family_of(args)
    check_modulation(config, args)
    check_path(config, args)
    session.started(Run(family.modulation))
    if config.modulation and family.modulation == "snr_gamma":
        # The host only asks whether it is set, passes it on to apply_snr_weight and writes it into the saved model's
        # header, so the text says what is true there, and tells loss.py that the user set no number.
        args.min_snr_gamma = args.min_snr_gamma or config.metadata()["ss_sga_snr_gamma"]
    if config.path != "linear" and int(os.environ.get("RANK", 0)) == 0:
        print(
            f"sga_kohya: sga_path={config.path} is experimental: the model needs this path's sampler and, on a sphere, "
            "a decoder made for it (python -m sga_kohya.spherical decoder)",
            flush=True,
        )


_TARGET = "library.train_util.prepare_accelerator"
CLASS_SEAM = Seam("accelerator class", _TARGET, ("args",), _replace_class, inside="Accelerator")
SEAM = Seam("start", _TARGET, ("args",), _replace)
