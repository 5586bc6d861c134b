"""One run at a time writes into an output_dir: two would mix their files under good names.

The main process holds the folder from before models are loaded until the seams are taken out or the process ends.
"""

import argparse
import os
from pathlib import Path

from sga_kohya.kit.files import only_writer
from sga_kohya.training.session import Session


def is_main_process() -> bool:
    """Whether this is the process that writes and speaks, before an accelerator tells."""
    return int(os.environ.get("RANK", "0")) == 0


def hold(session: Session, args: argparse.Namespace) -> None:
    """Hold args.output_dir for the session, and let go of the one before: one process may train several times in turn.

    Raises SgaError when another process holds it, or when there can be no such folder.
    """
    name = getattr(args, "output_dir", None)
    if not name or not is_main_process():
        return
    folder = Path(name).absolute()
    if folder == session.output_folder:
        return
    session.close()
    session.held.enter_context(only_writer(folder, "give this run another output_dir"))
    session.output_folder = folder
