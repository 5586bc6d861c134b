"""The command line: python -m sga_kohya.demo"""

import argparse
import os
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from sga_kohya.errors import SgaError
from sga_kohya.kit.cli import run_command
from sga_kohya.kit.files import LOCK, only_writer, write_whole

MARK = ".sga-demo"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sga_kohya.demo",
        description="Photos, slices, a baseline and an SGA run of equal cost, and a page that shows them. CPU only.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("sga-demo"), help="folder for everything the demo makes")
    parser.add_argument("--quick", action="store_true", help="a fraction of it, to see that it works")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order, noise and samples")
    return parser


def check_folder(out: Path) -> Path:
    """Its full path. Raises SgaError for a folder that is neither new, empty nor an earlier demo's."""
    out = out.resolve()
    foreign = {path.name for path in out.iterdir()} - {LOCK} if out.is_dir() else out.exists()
    if foreign and not (out / MARK).is_file():
        raise SgaError(f"--out {out} holds something other than an earlier demo: name an empty or new folder")
    return out


def prepare_folder(out: Path) -> None:
    """Empty what an earlier demo left there."""
    for part in ("photos", "slices", "baseline", "sga"):
        shutil.rmtree(out / part, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()


def run(out: Path, quick: bool, seed: int) -> Path:
    """Everything, in order. Returns the report's path."""
    started = time.perf_counter()
    # The demo is made for any machine: never a GPU, so that its numbers do not depend on one.
    os.environ["ACCELERATE_USE_CPU"] = "true"
    import torch

    from sga_kohya.config import SgaConfig
    from sga_kohya.demo import experiment, photos, report

    torch.set_num_threads(1)  # on matrices this small a second thread costs more than it brings
    size = experiment.QUICK if quick else experiment.FULL
    copied = photos.copy_photos(out / "photos", size.photos)
    print(f"1/4  {len(copied)} photos from scikit-image")
    rows = experiment.slice_photos(out / "photos", out / "slices")
    dataset, groups = out / "slices" / "dataset.toml", f"{experiment.SLICES_PER_STEP // len(experiment.LEVELS)}"
    config = SgaConfig(groups_per_step=int(groups))
    plan = experiment.plan_in_words(experiment.SliceDataset(dataset, config, seed=seed))
    print(f"2/4  H-SD: {plan}", "3/4  baseline: stock batches, the same images and settings, --sga=false", sep="\n")
    base_config = SgaConfig(enabled=False)
    baseline = experiment.train("baseline", dataset, out / "baseline", base_config, "--sga=false", size, seed)
    print("4/4  SGA: tuple steps and noise levels by granularity")
    extra = f"--sga_groups_per_step {groups}"
    sga = experiment.train("SGA", dataset, out / "sga", config, extra, size, seed)
    path = out / "report.html"
    facts = report.Facts(out, rows, plan, baseline, sga, seed, quick, started)
    write_whole(path, report.page(facts))
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 2 for what the user can correct, 130 after Ctrl-C."""

    def body() -> None:
        args = build_parser().parse_args(argv)
        warnings.filterwarnings("ignore", module="diffusers|transformers|torch")
        out = check_folder(args.out)
        with only_writer(out, "name another folder by --out"):
            prepare_folder(out)
            path = run(out, args.quick, args.seed)
        print(f"\nOpen this in a browser: {path}")

    return run_command("sga_kohya.demo", body, extra="demo")


if __name__ == "__main__":
    sys.exit(main())
