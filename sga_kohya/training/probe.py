"""The interference probe and gradient surgery in a run of the host: where its records go, and its figures."""

import argparse
from pathlib import Path

from sga_kohya.training.session import Session
from sga_kohya.tuples import split
from sga_kohya.tuples.accelerator import TupleAccelerator


def attach(accelerator: TupleAccelerator, session: Session, args: argparse.Namespace) -> None:
    """Records go to `{output_dir}/{output_name}_interference.jsonl`, figures to the host's trackers.

    args: the host's, as its parser made them.
    """
    file = Path(args.output_dir or ".") / f"{args.output_name or 'last'}_interference.jsonl"
    split.attach(accelerator, session.config, file, session.monitor.note)
