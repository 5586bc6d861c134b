"""The command line: python -m tests.bench.evidence OUT [--size cpu]"""

import argparse
import sys
import time
import warnings
from pathlib import Path

import torch

from sga_kohya.kit.cli import run_command
from tests.bench.evidence.page import write_page
from tests.bench.evidence.study import CELLS, SIZES, Study


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests.bench.evidence", description=__doc__)
    parser.add_argument("out", type=Path, help="journals and page; what is there already is not run again")
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/sga_evidence", help="packages and models")
    parser.add_argument("--cells", type=int, nargs="*", help="numbers of the cells to run, in order; all by default")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after so long")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--page", type=Path, help="write README.md, figures and CSV there, and run nothing")
    parser.add_argument("--list", action="store_true", help="the cells")
    return parser


def main() -> int:
    def body() -> None:
        args = build_parser().parse_args()
        if args.list:
            print(*(f"{number}  {cell.name}: {', '.join(cell.arms)}" for number, cell in enumerate(CELLS)), sep="\n")
            return
        warnings.filterwarnings("ignore")
        torch.set_num_threads(1)
        until = time.time() + 60 * args.minutes
        study = Study(args.out, args.cache, SIZES[args.size], torch.device(args.device), until)
        if args.page:
            for claim in write_page(study, args.page):
                print(f"{claim.number}. {claim.title}: {claim.verdict}")
            return
        study.run([CELLS[number] for number in (args.cells or range(len(CELLS)))])

    return run_command("tests.bench.evidence", body)


if __name__ == "__main__":
    sys.exit(main())
