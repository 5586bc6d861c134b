"""One way to start and to end a command: its streams, its exit status, its one line for what a user can correct."""

import argparse
import contextlib
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from sga_kohya.errors import SgaError
from sga_kohya.kit.hints import closest
from sga_kohya.kit.text import safe

OK, FOUND, CORRECT, INTERRUPTED = 0, 1, 2, 130
"""Exit status: done; done, and a check found errors; the user can correct something; Ctrl-C."""


CORRECTABLE = (SgaError, OSError, ModuleNotFoundError)
"""What a user can correct: also a file that cannot be read or written (a full disk, a folder where a file is meant)."""


class Parser(argparse.ArgumentParser):
    """prog: what one types, `python -m sga_kohya.hsd`; its errors begin as all others, without what runs it."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(CORRECT, f"{self.prog.removeprefix('python -m ')}: error: {message}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """argparse's, with the command or choice that was probably meant."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            close = closest(str(value), map(str, action.choices or ()))
            error.message += f"; did you mean {close}?" if close else ""
            raise


def run_command(
    name: str,
    body: Callable[[], int | None],
    interrupted: str = "the same command starts again",
    kinds: tuple[type[Exception], ...] = CORRECTABLE,
    extra: str = "",
) -> int:
    """Run a command and return its exit status.

    name: as in `sga_kohya.hsd`, in front of errors. body: returns an exit status, None for OK. interrupted: what Ctrl-C
    leaves behind and what to do next, in one line. kinds: of error, that end in one line; others are tracebacks.
    extra: of sga-kohya, which installs the optional packages.
    """
    show_every_character()
    try:
        with errors_in_one_line(name, kinds, extra):
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
def errors_in_one_line(
    name: str = "sga_kohya", kinds: tuple[type[Exception], ...] = CORRECTABLE, extra: str = ""
) -> Iterator[None]:
    """What a user can correct ends the process with one line on stderr and exit status 2; a traceback is our fault.

    An optional package that is missing is named with what installs it; a missing part of our own is a fault.
    """
    try:
        yield
    except kinds as error:
        missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
        if missing.split(".")[0] == "sga_kohya":
            raise
        package = f'"sga-kohya[{extra}]"' if extra else missing
        remedy = f": pip install {package}" if missing else ""
        print(f"{name}: error: {one_line(error)}{remedy}", file=sys.stderr)
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
    # A stream in memory has no encoding: what it holds is shown later by the real one.
    encodings = (getattr(stream, "encoding", None) for stream in (sys.stdout, sys.__stdout__))
    try:
        text.encode(next(filter(None, encodings), "ascii"))
    except UnicodeEncodeError:
        return False
    return True


def shell_word(text: object, windows: bool = os.name == "nt") -> str:
    """A word of a command that a user copies into a shell: bash and its kin, or cmd and PowerShell of Windows."""
    return subprocess.list2cmdline([str(text)]) if windows else shlex.quote(str(text))


def positive(text: str) -> int:
    """A whole number from 1, as an argparse type."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("write a whole number from 1")
    return number
