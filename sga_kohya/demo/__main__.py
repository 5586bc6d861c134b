"""The command line: python -m sga_kohya.demo"""

import argparse
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from sga_kohya.errors import SgaError
from sga_kohya.kit.cli import Parser, run_command
from sga_kohya.kit.files import LOCK, only_writer, write_whole

MARK = ".sga-demo"


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m sga_kohya.demo",
        description="Photos, slices, a small pretrained model fine-tuned with SGA and without at equal cost, and a "
        "page that shows it. CPU only; under three minutes on two cores.",
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
    for part in ("photos", "slices", "pretraining", "runs"):
        shutil.rmtree(out / part, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()


def quiet() -> None:
    """Libraries that say on every loading of the toy what they do."""
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()
    logging.getLogger("LyCORIS").setLevel(logging.WARNING)


def run(out: Path, quick: bool, seed: int) -> Path:
    """Everything, in order. Returns the report's path."""
    started = time.process_time()
    # The demo is made for any machine: never a GPU, so that its numbers do not depend on one.
    os.environ["ACCELERATE_USE_CPU"] = "true"
    # They warn, while they are imported, of what the toy has not: torchvision, a VAE, text encoders.
    os.environ |= {"DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error"}
    import torch

    from sga_kohya.config import SgaConfig
    from sga_kohya.demo import experiment, photos, report

    quiet()
    torch.set_num_threads(1)  # on matrices this small a second thread costs more than it brings
    size = experiment.QUICK if quick else experiment.FULL
    print(f"This takes {'half a minute' if quick else 'about two and a half minutes'} on two CPU cores.")
    copied = photos.copy_photos(out / "photos", size.photos)
    rows = experiment.slice_photos(out / "photos", out / "slices")
    dataset = out / "slices" / "dataset.toml"
    plan = experiment.plan_in_words(experiment.SliceDataset(dataset, SgaConfig(), experiment.BATCH, seed))
    print(f"1/5  {len(copied)} photos from scikit-image; H-SD: {plan}")
    print("2/5  pretraining a toy on crops of other pictures, for about a minute")
    toy = experiment.pretrain(out / "pretraining", size, seed)
    runs = []
    for number, setting in enumerate(experiment.SETTINGS):
        print(f"{3 + number}/5  fine-tuning it, {setting.name}: {setting.words}")
        runs.append(experiment.train(setting, toy, dataset, out / "runs" / str(number), size, seed))
    path = out / "report.html"
    facts = report.Facts(out, rows, plan, runs, seed, quick, started)
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
