"""Patch an sd-scripts checkout, for tools that run it by path: python -m sga_kohya.patch DIR [--undo | --check]

What patches/library.patch adds to the empty `library/__init__.py`, without git or patch(1). A file that holds anything
else is left alone.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sga_kohya.errors import SgaError
from sga_kohya.hosts.sd_scripts.checkout import find_checkout
from sga_kohya.kit.cli import FOUND, OK, Parser, run_command
from sga_kohya.kit.files import write_whole
from sga_kohya.kit.shipped import shipped

PATCH = "library.patch"
MARK = "# Added by sga_kohya's patches/library.patch"
"""Begins the file in every version of the patch."""


def added() -> str:
    """What the patch puts into the file."""
    lines = (shipped("patches") / PATCH).read_text(encoding="utf-8").splitlines()
    body = lines[next(i for i, line in enumerate(lines) if line.startswith("@@")) + 1 :]
    return "".join(f"{line.removeprefix('+')}\n" for line in body)


def apply(file: Path) -> str:
    """Returns what was done. Raises SgaError where the file is not the empty one of sd-scripts, nor ours."""
    before = _text(file)
    if before == added():
        return f"{file} is patched already: nothing to do"
    _check_ours(file, before)
    write_whole(file, added())
    return f"{file} is patched" + (" anew: it was an older version of the patch" if before else "")


def undo(file: Path) -> str:
    """Returns what was done. Raises SgaError where the file holds anything of another hand."""
    before = _text(file)
    if not before:
        return f"{file} is not patched: nothing to do"
    _check_ours(file, before)
    write_whole(file, "")
    return f"{file} is as sd-scripts has it"


def _text(file: Path) -> str:
    """ "" for blank ones; a checkout may have the line ends of Windows."""
    text = file.read_bytes().decode("utf-8", errors="replace").replace("\r\n", "\n") if file.is_file() else ""
    return text if text.strip() else ""


def _check_ours(file: Path, text: str) -> None:
    if text and not text.startswith(MARK):
        raise SgaError(f"{file} is empty in sd-scripts and holds something else here: move that away first")


def _build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m sga_kohya.patch",
        description="Let tools that run sd-scripts by path train with SGA.",
    )
    parser.add_argument("folder", metavar="DIR", help="the tool's checkout of sd-scripts")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--undo", action="store_true", help="take the patch out again")
    what.add_argument("--check", action="store_true", help="say whether it is patched; exit status 1 if not")
    return parser


def _run(options: argparse.Namespace) -> int:
    checkout = find_checkout(options.folder, "DIR")
    file = checkout.root / "library" / "__init__.py"
    if options.check:
        patched = _text(file) == added()
        print(f"{file} is {'patched' if patched else 'not patched, or by another version of sga_kohya'}")
        return OK if patched else FOUND
    if options.undo:
        print(undo(file))
        return OK
    checkout.script("train_network.py")  # refuses forks with a loop of their own
    before = _text(file)
    print(apply(file))
    if before == added():
        return OK
    print(
        "Next: install sga-kohya into the Python that runs these scripts, and write --sga there, or `sga = true`.\n"
        f"Undo: sga-kohya patch {options.folder} --undo"
    )
    return OK


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 from --check for an unpatched checkout, 2 for what the user can correct."""
    return run_command("sga_kohya.patch", lambda: _run(_build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
