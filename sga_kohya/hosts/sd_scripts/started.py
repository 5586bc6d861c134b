"""Seam: when the host has parsed its arguments, SGA knows which modulation the model takes.

`prepare_accelerator(args)` is the first function that every script calls with them, before it loads a model. Settings
that do not fit are refused here; the seams that the host must then reach are written down; --sga_show_timesteps ends
here. For a U-Net the host's min_snr_gamma is switched on where it was off, or it would never ask for a weight.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from typing import Any

from sga_kohya.hosts.sd_scripts.families import check_modulation, family_of
from sga_kohya.hosts.sd_scripts.output_folder import hold, is_main_process
from sga_kohya.hosts.seam import Seam
from sga_kohya.training.preview import show
from sga_kohya.training.session import Session


def _replace(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def prepare_accelerator(args: argparse.Namespace) -> Any:
        config, family = session.config, family_of(args)
        check_modulation(config, args)
        session.expected |= {"timesteps"}
        if config.modulation:
            session.modulation = family.modulation
            if family.modulation == "snr_gamma":
                session.expected |= {"SNR weight"}
                # The host only asks whether it is set, passes it on to apply_snr_weight and writes it into the saved
                # model's header, so the text says what is true there, and tells snr.py that the user set no number.
                args.min_snr_gamma = args.min_snr_gamma or config.metadata()["ss_sga_snr_gamma"]
            elif config.flow_snr_weight:
                session.expected |= {"flow SNR weight"}
        if config.show_timesteps and session.dataset is not None:
            if is_main_process():
                print(show(session.dataset.planner.groups, config, args), flush=True)
            sys.exit(0)
        hold(session, args)
        return original(args)

    return prepare_accelerator


SEAM = Seam("modulation", "library.train_util.prepare_accelerator", ("args",), _replace)
