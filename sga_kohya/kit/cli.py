"""One way to start and to end a command: its streams, its exit status, its one line for what a user can correct."""

import argparse
import contextlib
import io
import sys
from collections.abc import Callable, Iterator

from sga_kohya.errors import SgaError
from sga_kohya.kit.text import safe

OK, FOUND, CORRECT, INTERRUPTED = 0, 1, 2, 130
"""Exit status: done; done, and a check found errors; the user can correct something; Ctrl-C."""


def run_command(name: str, body: Callable[[], int | None], interrupted: str = "the same command starts again") -> int:
    """Run a command and return its exit status.

    name: as in `sga_kohya.hsd`, in front of errors. body: returns an exit status, None for OK. interrupted: what Ctrl-C
    leaves behind and what to do next, in one line.
    """
    show_every_character()
    try:
        with errors_in_one_line(name):
            return body() or OK
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted: {interrupted}", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as end:
        if isinstance(end.code, int):
            return end.code
        if end.code is not None:
            print(end.code, file=sys.stderr)
        return FOUND if end.code is not None else OK


@contextlib.contextmanager
def errors_in_one_line(name: str = "sga_kohya") -> Iterator[None]:
    """What a user can correct ends the process with one line on stderr and exit status 2; a traceback is our fault.

    That is SgaError, a file that cannot be read or written (a full disk, a folder where a file is meant), and an
    optional package that is missing.
    """
    try:
        yield
    except (SgaError, OSError) as error:
        print(f"{name}: error: {one_line(error)}", file=sys.stderr)
        sys.exit(CORRECT)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "sga_kohya":
            raise
        print(f"{name}: error: {one_line(error)}: pip install {error.name}", file=sys.stderr)
        sys.exit(CORRECT)


def one_line(error: BaseException) -> str:
    """An error's text without line breaks and escapes, safe to show; an OSError's with the file it is about."""
    return safe(" ".join(str(error).split())) or type(error).__name__


def show_every_character() -> None:
    """A console or pipe that lacks a character (cp932 and cp1252 of Windows, ASCII) gets it escaped, not an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def can_show(text: str) -> bool:
    """Whether standard output's encoding has every character of the text."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def positive(text: str) -> int:
    """A whole number from 1, as an argparse type."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("write a whole number from 1")
    return number
