"""The command line: python -m sga_kohya.spherical probe | decoder | ablation …"""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from sga_kohya.kit.cli import Parser, positive, run_command
from sga_kohya.kit.files import only_writer

KINDS = ("flux", "sd3", "sd", "sdxl")


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m sga_kohya.spherical",
        description="Spherical flow matching (arXiv:2605.15193): probe a VAE, fit its decoder to the sphere, and "
        "compare paths from latents to noise on a small scale.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _probe(commands.add_parser("probe", help="does this VAE suit the method? table, curves and pictures"))
    _decoder(commands.add_parser("decoder", help="train a VAE's decoder on projected latents, its encoder frozen"))
    _ablation(commands.add_parser("ablation", help="train the four paths side by side on small real images"))
    return parser


def _add_vae(add: Callable[..., Any]) -> None:
    add("vae", type=Path, help="a diffusers VAE folder, or with --kind a .safetensors as sd-scripts takes it")
    add("images", type=Path, help="folder of photos; folders in it are searched too")
    add("out", type=Path, help="folder for the results")
    add("--kind", choices=KINDS, help="whose VAE a file is; sd-scripts' own loader reads it")
    add("--sd_scripts", help="folder of the sd-scripts checkout, for --kind")
    add("--resolution", type=positive, default=256, help="side of the square images (default: 256)")
    add("--batch_size", type=positive, default=4, help="images at once (default: 4)")
    add("--seed", type=int, default=0, help="of everything random (default: 0)")


def _probe(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_vae(add)
    add("--count", type=positive, default=32, help="at most so many of the images (default: 32)")
    add("--dino", default="facebook/dinov2-small", help="DINOv2 by its folder or name on the hub")
    add("--device", help="cuda or cpu; what there is if not given")


def _decoder(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_vae(add)
    add("--steps", type=positive, required=True, help="train until this many steps")
    add("--lr", type=float, default=1e-4, help="of decoder and discriminator (default: 1e-4)")
    add(
        "--perceptual", choices=["lpips", "none"], default="lpips", help="LPIPS, weight 1, or L1 alone (default: lpips)"
    )
    add(
        "--adversarial", type=float, default=0.1, help="weight of the patch-adversarial loss, 0 for none (default: 0.1)"
    )
    add("--vanilla", dest="spherical", action="store_false", help="without the projection, as a control")
    add("--held_out", type=positive, default=16, help="images that are only measured (default: 16, at most a third)")
    add("--workers", type=int, default=2, help="processes that load images (default: 2)")
    add("--save_every", type=positive, default=1000, help="steps between checkpoints (default: 1000)")
    add("--resume", action="store_true", help="continue exactly from the last checkpoint in OUT")


def _ablation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("out", type=Path, help="folder for the runs and the table; an interrupted ablation goes on there")
    add("--quick", action="store_true", help="about a minute on two CPU cores; shows that it runs, not who wins")
    add("--images", type=Path, help="folder of folders of images, one a class; scikit-image's photos if not given")
    add("--seeds", type=positive, default=3, help="runs of each path (default: 3)")
    add("--steps", type=positive, default=1000, help="optimizer steps of each run (default: 1000)")
    add("--tokenizer_steps", type=positive, default=1000, help="steps of the VAE and of its decoder (default: 1000)")
    add("--samples", type=positive, default=1024, help="images drawn from each model (default: 1024)")
    add("--width", type=positive, default=64, help="layer width of the models (default: 64)")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 2 for what the user can correct, 130 after Ctrl-C."""
    args = build_parser().parse_args(argv)

    def body() -> None:
        # The first process of a decoder's training holds its folder; the others write nothing.
        first = os.environ.get("RANK", "0") == "0"
        with only_writer(args.out, "name another folder as OUT") if first else contextlib.nullcontext():
            if text := _COMMANDS[args.command](args):
                print(text)

    return run_command("sga_kohya.spherical", body, _INTERRUPTED[args.command], extra="spherical")


def _options(kind: Any, args: argparse.Namespace) -> Any:
    return kind(**{f.name: getattr(args, f.name) for f in fields(kind)})


def _run_probe(args: argparse.Namespace) -> str:
    from sga_kohya.spherical.check_page import table  # only now, because these import torch
    from sga_kohya.spherical.tokenizer_check import ProbeOptions
    from sga_kohya.spherical.tokenizer_check import run as check

    return f"{table(check(_options(ProbeOptions, args)))}\npage: {args.out / 'probe.html'}"


def _run_decoder(args: argparse.Namespace) -> str:
    from sga_kohya.spherical import decoder

    return decoder.run(_options(decoder.DecoderOptions, args))


def _run_ablation(args: argparse.Namespace) -> str:
    from sga_kohya.spherical import ablation

    return ablation.run(_options(ablation.AblationOptions, args))


_INTERRUPTED = {
    "probe": "the same command starts again",
    "decoder": "add --resume to go on from the last checkpoint",
    "ablation": "the same command goes on",
}
_COMMANDS = {"probe": _run_probe, "decoder": _run_decoder, "ablation": _run_ablation}

if __name__ == "__main__":
    sys.exit(main())
