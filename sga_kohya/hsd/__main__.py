"""The command line: python -m sga_kohya.hsd PHOTOS OUT"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sga_kohya.errors import SgaError
from sga_kohya.hsd import HsdConfig, LevelConfig, run
from sga_kohya.hsd.detect import DETECTORS
from sga_kohya.hsd.images import FORMATS
from sga_kohya.hsd.summary import summarise


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sga_kohya.hsd",
        description="Cut a folder of photos into macro, meso and micro slices, ready for sd-scripts.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("photos", type=Path, metavar="PHOTOS", help="folder with photos, searched recursively; never written to")
    add("out", type=Path, metavar="OUT", help="folder for the slices, dataset.toml and sga_manifest.jsonl")
    add("--resolution", type=int, default=1024, help="its square is the largest area of a slice, in pixels")
    add(
        "--levels",
        default="macro,meso,micro",
        help="names, coarse to fine, each with its own resolution if wanted: macro:1024,meso,micro:512",
    )
    add("--detector", default="heuristic", help=f"what finds the finer slices: {', '.join(sorted(DETECTORS))}")
    add("--per_level", type=int, default=1, help="slices of each finer level, at most, per region")
    add("--tau_up", type=float, default=2.0, help="largest upscale; finer crops that need more take a smaller size")
    add("--tau_down", type=float, default=1.0, help="cut, not downsample, crops up to this much too large")
    add(
        "--iou",
        nargs="+",
        metavar="COARSER/FINER=IOU",
        help="above which IoU the coarser of two slices is redundant; None: 0.7 between all finer levels",
    )
    add("--min_size", type=int, default=256, help="shortest side of a slice in pixels; smaller photos are skipped")
    add("--format", default="png", help=f"of the slices: {', '.join(FORMATS)}")
    add("--caption", help="for photos without a .txt or .caption file; None: words of their folder or name")
    add("--repeats", type=int, default=1, help="num_repeats of every level")
    add("--batch_size", type=int, default=1, help="for dataset.toml")
    add("--workers", type=int, default=min(8, os.cpu_count() or 1), help="threads that load and save")
    return parser


def config_from(args: argparse.Namespace) -> HsdConfig:
    """Raises SgaError, naming every bad value."""
    return HsdConfig(
        levels=parse_levels(args),
        detector=args.detector,
        redundant_iou=None if args.iou is None else dict(map(parse_iou, args.iou)),
        min_size=args.min_size,
        format=args.format,
        caption=args.caption or "",
        batch_size=args.batch_size,
    )


def parse_levels(args: argparse.Namespace) -> tuple[LevelConfig, ...]:
    """NAME or NAME:RESOLUTION, separated by commas. The coarsest level is one slice and is not upscaled."""
    levels = []
    for rank, item in enumerate(args.levels.split(",")):
        name, _, resolution = item.strip().partition(":")
        if resolution and not resolution.isdigit():
            raise SgaError(f"--levels {item}: {resolution!r} is no resolution, write NAME:PIXELS, such as micro:512")
        levels.append(
            LevelConfig(
                name,
                resolution=int(resolution or args.resolution),
                tau_down=args.tau_down,
                tau_up=args.tau_up if rank else 1.0,
                max_slices=args.per_level if rank else 1,
                repeats=args.repeats,
            )
        )
    return tuple(levels)


def parse_iou(text: str) -> tuple[tuple[str, str], float]:
    """COARSER/FINER=IOU, such as meso/micro=0.7."""
    try:
        pair, threshold = text.split("=")
        coarser, finer = pair.split("/")
        return (coarser, finer), float(threshold)
    except ValueError:
        raise SgaError(f"--iou {text}: write COARSER/FINER=IOU, such as meso/micro=0.7") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 2 for what the user can correct, 130 after Ctrl-C."""
    args = build_parser().parse_args(argv)
    try:
        if args.workers < 1:
            raise SgaError(f"--workers {args.workers}: use 1 or more")
        config = config_from(args)
        result = run(args.photos, args.out, config, args.workers, progress=True)
    except (SgaError, OSError) as error:
        print(f"sga_kohya.hsd: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted: every file in {args.out} is whole; run the same command again", file=sys.stderr)
        return 130
    print(summarise(result, config, args.out.resolve()))
    if not any(row.file for row in result.rows):
        print("sga_kohya.hsd: error: no photo could be used: see the warnings above", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    # A file name that is not UTF-8 must not stop the report.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    sys.exit(main())
