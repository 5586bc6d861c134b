"""The command line: python -m sga_kohya.hsd PHOTOS OUT, and python -m sga_kohya.hsd review OUT"""

import argparse
import io
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import NoReturn

from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.hsd.arguments import PROCESS, build_parser, config_from
from sga_kohya.hsd.review.command import main as review
from sga_kohya.hsd.team import Process
from sga_kohya.kit.cli import CORRECT, INTERRUPTED, OK, run_command, show_every_character
from sga_kohya.kit.hints import command_meant

REVIEW = "review"
"""In the place of PHOTOS: the command that shows an OUT. A folder of that name is ./review."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 2 for what the user can correct, 130 after Ctrl-C."""
    show_every_character()
    words = list(sys.argv[1:] if argv is None else argv)
    misspelt = words and command_meant(words[0], [REVIEW]) and words[0] != REVIEW
    if PROCESS and PROCESS.rank:
        return CORRECT if misspelt else _help(PROCESS, words)
    if words[:1] == [REVIEW]:
        return review(words[1:])
    if misspelt:
        return run_command("sga_kohya.hsd", lambda: _misspelt(words[0]))
    args = build_parser().parse_args(words)
    whole = f"every file in {args.out} is whole; the same command goes on from here"
    return run_command("sga_kohya.hsd", lambda: _run(args), whole, extra="hsd")


def _misspelt(word: str) -> NoReturn:
    raise SgaError(f"there is no folder {word}: did you mean {REVIEW}? `python -m sga_kohya.hsd {REVIEW} OUT`")


def _help(process: Process, words: list[str]) -> int:
    """Any process but the first, which alone speaks, save for errors that are this one's own."""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # Python 3.10 cannot print usage to None
            args = build_parser().parse_args(words)
    except SystemExit as end:
        return int(end.code or 0)
    if words[:1] == [REVIEW] or args.move or args.preview is not None:
        return 0
    from sga_kohya.hsd.together import work

    _ignore_large()
    name = f"sga_kohya.hsd, {process.name}"
    arguments = process, args.photos, args.out, lambda: config_from(args), *_bounds(args)

    def body() -> int:
        try:
            work(*arguments)
        except KeyboardInterrupt:  # which process 0 speaks of
            return INTERRUPTED
        return OK

    return run_command(name, body, extra="hsd")


def _ignore_large() -> None:
    # Between one and two times Pillow's limit a photo is used, above it is reported: the warning adds nothing.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def _bounds(args: argparse.Namespace) -> tuple[int, int | None]:
    """Threads and bytes of this process."""
    from sga_kohya.hsd.memory import parse_size, usual_size

    beside = PROCESS.beside if PROCESS else 1
    return args.workers, usual_size(beside) if args.memory is None else parse_size(args.memory)


def _run(args: argparse.Namespace) -> int:
    _ignore_large()
    from sga_kohya.hsd.out.summary import next_command, summarise
    from sga_kohya.hsd.preview import preview
    from sga_kohya.hsd.run import run
    from sga_kohya.hsd.together import lead

    if args.move:
        return _move(args)
    config = config_from(args)
    for name in ("workers", "preview"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise SgaError(f"--{name} {getattr(args, name)}: use 1 or more")
    workers, memory = _bounds(args)
    if args.preview is not None:
        result = preview(args.photos, args.out, config, args.preview, workers, progress=True, memory=memory)
    elif PROCESS:
        result = lead(PROCESS, args.photos, args.out, config, workers, progress=True, memory=memory)
    else:
        result = run(args.photos, args.out, config, workers, progress=True, memory=memory)
    print(summarise(result, config))
    if not result.tally.used and not (result.clips and result.clips.used):
        raise SgaError(
            f"no {'photo' if result.clips is None else 'photo or clip'} could be used: see the warnings above"
        )
    if args.preview is None:
        print(next_command(result, config))
    return 0


def _move(args: argparse.Namespace) -> int:
    from sga_kohya.hsd.out.move import move

    folder, changed = move(str(args.photos), str(args.out))
    for name, count in changed.items():
        print(f"{folder / name}: {count} {'path' if count == 1 else 'paths'}")
    print(f"they name {args.out} now; the next run of sga_kohya.hsd writes them anew, for the folder it is given")
    return 0


if __name__ == "__main__":
    sys.exit(main())
