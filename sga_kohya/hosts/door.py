"""How a door begins and ends, whichever trainer is behind it."""

import sys
from collections.abc import Callable
from typing import TypeVar

from sga_kohya.errors import SgaError
from sga_kohya.kit.cli import errors_in_one_line, run_command

_INTERRUPTED = "what was saved is whole; --resume FOLDER goes on from a saved state"
T = TypeVar("T")


def open_door(name: str, prepare: Callable[[], T], run: Callable[[T], None]) -> None:
    """prepare: says what words and files alone get wrong. run: the trainer. Exits on an error of the user's or Ctrl-C.

    The host's own errors stay tracebacks, be they of files; ours end in one line, before it starts and in it.
    """

    def body() -> None:
        with errors_in_one_line(name):
            prepared = prepare()
        run(prepared)

    status = run_command(name, body, _INTERRUPTED, kinds=(SgaError,))
    if status:
        sys.exit(status)
