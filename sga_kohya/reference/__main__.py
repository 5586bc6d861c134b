"""The command line: python -m sga_kohya.reference --dataset_config OUT/dataset.toml --out RUN --steps 500"""

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from sga_kohya.config import SgaConfig, add_arguments
from sga_kohya.errors import SgaError
from sga_kohya.kit.cli import Parser, positive, run_command
from sga_kohya.kit.files import only_writer
from sga_kohya.options import read_options
from sga_kohya.reference.families import FAMILIES
from sga_kohya.reference.options import MIXED_PRECISIONS, RunOptions
from sga_kohya.words import LINEAR, PATH_NAMES

_PRECISION = (
    "bf16: frozen weights in bfloat16 and the network under autocast, at half the memory; what is trained and saved is "
    "float32 all the same. no: everything is (default: bf16 on a card that has it, no elsewhere)"
)
_RECOMPUTE = (
    "compute activations inside blocks once more on the way back instead of keeping them: the same gradients, less "
    "memory, about a third more time"
)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m sga_kohya.reference",
        description="Train by Algorithm 2 of the paper on public libraries only: a small model from scratch, or a "
        "DoRA on a local diffusers folder. Works under `accelerate launch -m`. --sga=false is the plain baseline.",
        epilog=f"Pipelines that --model takes: {', '.join(FAMILIES)}.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--dataset_config", type=Path, required=True, help="dataset.toml, as `python -m sga_kohya.hsd` writes it")
    add("--out", type=Path, required=True, help="folder of the run: model, checkpoints, samples, logs")
    add(
        "--arch", choices=["dit", "unet"], default="dit", help="a transformer (default; FLUX's from scratch) or a U-Net"
    )
    add("--model", type=Path, help="local diffusers folder to put a DoRA on; a small model from scratch if not given")
    add("--vae", type=Path, help="local diffusers VAE folder; the model's VAE, or averaged pixels, if not given")
    add("--steps", type=positive, help="train until this many optimizer steps")
    add("--epochs", type=positive, help="train until every slice was seen this often; instead of --steps")
    add("--batch_size", type=positive, help="groups (--sga=false: slices) a step; the TOML's if not given")
    add("--lr", type=_above_zero, default=1e-3, help="AdamW's learning rate, constant (default: 1e-3)")
    add("--seed", type=int, default=0, help="of weights, order, noise and samples (default: 0)")
    add("--network_dim", type=positive, default=16, help="rank of the DoRA (default: 16)")
    add("--network_alpha", type=_above_zero, default=16.0, help="its alpha (default: 16)")
    add("--width", type=positive, default=128, help="layer width of a model from scratch (default: 128)")
    add("--depth", type=positive, default=4, help="its blocks, or a U-Net's resolution levels (default: 4)")
    add("--pool", type=positive, default=4, help="without a VAE, pixels are averaged over squares of this side")
    add(
        "--path", choices=PATH_NAMES, help="from latents to noise, of flow matching: --sga_path without the rest of SGA"
    )
    add("--prediction", choices=["epsilon", "v_prediction"], help="of a U-Net or PixArt; its own if not given")
    add("--zero_terminal_snr", action="store_true", help="rescale their noise schedule to end in pure noise")
    add("--save_every", type=_count, default=0, help="steps between checkpoints; one is always saved at the end")
    add("--sample_every", type=_count, default=0, help="steps between sample images; some are always drawn at the end")
    add("--mixed_precision", choices=MIXED_PRECISIONS, help=_PRECISION)
    add("--gradient_checkpointing", action="store_true", help=_RECOMPUTE)
    add("--resume", nargs="?", const="latest", help="continue exactly: from this checkpoint folder, or the run's last")
    add_arguments(parser)
    return parser


def _above_zero(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError("write a number above 0")
    return number


def _count(text: str) -> int:
    """0 for never."""
    return int(text) if text == "0" else positive(text)


def one_writer(out: Path) -> contextlib.AbstractContextManager[None]:
    """The first process of a run holds its folder; the others write nothing."""
    return (
        only_writer(out, "name another folder by --out")
        if os.environ.get("RANK", "0") == "0"
        else contextlib.nullcontext()
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 2 for what the user can correct, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    saved = "--resume goes on from the run's last checkpoint"
    return run_command("sga_kohya.reference", lambda: _run(words), saved, extra="demo")


def _run(argv: list[str]) -> None:
    given = read_options(argv)
    config = SgaConfig.from_options(given)
    args = build_parser().parse_args(argv)
    if config.leaves_line and args.path not in (None, config.path):
        raise SgaError(f"--path {args.path} and --sga_path {config.path} disagree: give one of them")
    # --sga=false switches off --sga_path with the rest, but not --path.
    config = replace(config, path=args.path or (config.path if config.enabled else LINEAR))
    from sga_kohya.reference.trainer import Trainer  # only now, because it imports torch
    from sga_kohya.reference.unused import refuse_unused

    options = RunOptions(**{f.name: getattr(args, f.name) for f in fields(RunOptions)})
    refuse_unused(given, options, config)
    with one_writer(args.out):
        trainer = Trainer(options, config)
        spent = trainer.run()
    trainer.accelerator.print(
        f"{spent.steps} steps, {spent.model_calls} model calls, {spent.slices} slices in {spent.seconds:.0f} s: "
        f"weights in {args.out / 'model'}, samples in {args.out / 'samples'}"
    )


if __name__ == "__main__":
    sys.exit(main())
