"""Seams: when the host has parsed its arguments and made its data, the run begins.

`prepare_accelerator(args)` is the first function that every script calls with its arguments, between making the dataset
and loading models; textual inversion makes the dataset after both.
"""

import argparse
from collections.abc import Callable

from sga_kohya.hosts.sd_scripts.families import check_modulation, check_path, family_of
from sga_kohya.hosts.sd_scripts.levels import Levels
from sga_kohya.hosts.seam import Seam
from sga_kohya.training.begin import accelerator_class, begins_run
from sga_kohya.training.output_folder import is_main_process
from sga_kohya.training.session import Session
from sga_kohya.words import SNR_GAMMA


def start(session: Session, args: argparse.Namespace) -> Levels:
    """What is trained. Raises SgaError where the settings do not fit it."""
    config, family = session.config, family_of(args)
    check_modulation(config, args)
    check_path(config, args)
    if config.modulates and family.modulation == SNR_GAMMA:
        # The host only asks whether it is set, passes it on to apply_snr_weight and writes it into the saved model's
        # header, so the text says what is true there, and tells loss.py that the user set no number.
        args.min_snr_gamma = args.min_snr_gamma or config.metadata()["ss_sga_snr_gamma"]
    if config.leaves_line and is_main_process():
        print(
            f"sga_kohya: sga_path={config.path} is experimental: the model needs this path's sampler and, on a sphere, "
            "a decoder made for it (python -m sga_kohya.spherical decoder)",
            flush=True,
        )
    return Levels(args, config)


def _replace(original: Callable, session: Session) -> Callable:
    return begins_run(original, session, start)


_TARGET = "library.train_util.prepare_accelerator"
CLASS_SEAM = Seam("accelerator class", _TARGET, ("args",), accelerator_class, inside="Accelerator")
SEAM = Seam("start", _TARGET, ("args",), _replace)
