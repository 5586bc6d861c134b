"""The command line: python -m sga_kohya.hsd review OUT"""

import argparse
import contextlib
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from sga_kohya.errors import SgaError
from sga_kohya.hsd.settings.config_file import CONFIG_TOML
from sga_kohya.kit.cli import Parser, run_command, shell_word
from sga_kohya.kit.files import only_writer

REMEDY = "end it"


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m sga_kohya.hsd review",
        description="Look over the slices of an OUT in the browser: keep, reject, move, add, caption. What is decided "
        "goes to OUT/sga_decisions.jsonl, and every later run over OUT obeys it.",
    )
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="the folder that sga_kohya.hsd has filled")
    add("--photos", type=Path, metavar="PHOTOS", help="where the photos lie (default: where the last run found them)")
    add("--port", type=int, default=8421, help="of 127.0.0.1; 0 for any that is free (default: %(default)s)")
    add("--open", action="store_true", help="open it in the browser")
    return parser


def main(argv: Sequence[str]) -> int:
    """Returns the exit status, as `sga_kohya.hsd` does."""
    args = build_parser().parse_args(argv)
    return run_command("sga_kohya.hsd review", lambda: serve(args), "every decision is kept", extra="hsd")


def serve(args: argparse.Namespace) -> None:
    from sga_kohya.hsd.review.desk import Desk
    from sga_kohya.hsd.review.server import Server
    from sga_kohya.hsd.review.sources import FOLDER, photos_of

    out = args.out.resolve()
    if not out.is_dir():
        raise SgaError(f"no folder {out}: give the OUT of a run of sga_kohya.hsd")
    photos = args.photos.resolve() if args.photos else photos_of(out)
    if photos is None:
        print(f"warning: the photos of {out} are not where they were: boxes are drawn on small copies; --photos PHOTOS")
    words = ["python -m sga_kohya.hsd", shell_word(photos or "PHOTOS"), shell_word(out)]
    command = " ".join([*words, "--config", shell_word(out / CONFIG_TOML)])
    with only_writer(out / FOLDER, REMEDY), Server(Desk(out, photos), command, args.port) as server:
        decisions = server.desk.decisions
        if decisions.unread:
            print(f"warning: {decisions.unread} lines of {decisions.path} are no decisions and are passed over")
        print(f"review page: {server.url}\ndecisions: {decisions.path}", flush=True)
        print(f"then cut again: {command}\nCtrl-C ends the page; nothing is lost", flush=True)
        if args.open:
            webbrowser.open(server.url)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    print()
