"""The command line: python -m sga_kohya.interference YOUR.toml --weights OUT/adapter.safetensors"""

import argparse
import contextlib
import os
import runpy
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import toml

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.hosts.sd_scripts.checkout import find_checkout
from sga_kohya.hosts.sd_scripts.checks import check
from sga_kohya.hosts.sd_scripts.families import FAMILIES, guess_script
from sga_kohya.kit.cli import Parser, positive, run_command
from sga_kohya.kit.files import only_writer, sha256
from sga_kohya.kit.safetensors_file import METADATA, read_header
from sga_kohya.options import read_options

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.97)
# Options of the TOML that a run which trains nothing must not have.
_DROPPED: tuple[str, ...] = ("save_", "sample_", "log_", "logging_", "wandb_", "huggingface_", "resume", "validat")
_DROPPED += ("sga_", "output_")
_DROPPED += ("max_train_", "network_dropout", "scale_weight_norms", "cache_latents_to_disk", "initial_", "skip_until")
_KEPT = ("sga_granularities", "sga_manifest", "sga_loss_weight", "sga_tuple_reduction")


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m sga_kohya.interference",
        description="Do your granularities help or hurt each other? Loads the models, the trained adapter and the "
        "dataset through sd-scripts, trains nothing, and measures Omega, kernel products (Eq. 18 and 45) and gradients "
        "over noise levels. Further arguments go to the script.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("config", type=Path, help="the TOML that the adapter was trained with")
    add("--weights", type=Path, required=True, help="the trained adapter, .safetensors")
    add("--out", type=Path, help="folder of the report (default: WEIGHTS_interference beside the weights)")
    add("--levels", type=noise_levels, default=LEVELS, help="noise levels from 0 to 1 (default: %(default)s)")
    add("--points", type=positive, default=16, help="groups measured at each level (default: 16)")
    add("--script", choices=[family.scripts[0] for family in FAMILIES], help="default: by the TOML")
    add("--sd_scripts", help="folder of the sd-scripts checkout")
    return parser


def noise_levels(text: str) -> tuple[float, ...]:
    levels = tuple(sorted({float(word) for word in text.split(",")}))
    if not levels or levels[0] <= 0 or levels[-1] > 1:
        raise argparse.ArgumentTypeError("write numbers above 0 and up to 1, such as 0.1,0.5,0.9")
    return levels


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 2 for what the user can correct, 130 after Ctrl-C."""

    def body() -> None:
        _run(*build_parser().parse_known_args(sys.argv[1:] if argv is None else argv))

    kept = "the same command goes on with what was measured so far"
    return run_command("sga_kohya.interference", body, kept, kinds=(SgaError,))  # the host's own stay tracebacks


def _run(args: argparse.Namespace, further: list[str]) -> None:
    for path in (args.config, args.weights):
        if not path.is_file():
            raise SgaError(f"{path}: {path.absolute()} does not exist; correct the path")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise SgaError("this measures in one process: start it by python -m sga_kohya.interference alone")
    options = read_options(["--config_file", str(args.config), *further])
    if not options.get("network_module"):
        raise SgaError(
            f"{args.config} has no network_module: adapters are measured, full fine-tunes by sga_probe_every"
        )
    config = SgaConfig.from_options(
        {**{key: options[key] for key in _KEPT if key in options}, "sga_modulation": "false", "sga_groups_per_step": 1}
    )
    _check_path(args.weights, options)
    checkout = find_checkout(args.sd_scripts or options.get("sd_scripts"))
    script = checkout.script(args.script or guess_script(options))
    check({key: value for key, value in options.items() if key != "resume"}, config)
    out = args.out or args.weights.with_name(f"{args.weights.stem}_interference")
    # Only now, because these import torch: what words and files alone get wrong was said at once.
    from sga_kohya.hosts.sd_scripts.measure import install_look
    from sga_kohya.interference import report, store
    from sga_kohya.training.look import Enough

    facts = {"config": str(args.config), "weights": args.weights.name, "weights_sha256": sha256(args.weights)[:16]}
    facts |= {"dataset": str(options.get("dataset_config") or options.get("train_data_dir"))}
    with only_writer(out, "name another folder by --out"):
        measured = store.load(out, facts, list(args.levels), args.points)
        if measured.done < measured.total:
            with (
                tempfile.TemporaryDirectory() as folder,
                install_look(config, checkout, script.name, measured.level, measured.observe),
            ):
                sys.argv = [str(script), *_arguments(options, args, further, Path(folder), measured)]
                with contextlib.suppress(Enough):
                    runpy.run_path(str(script), run_name="__main__")
        if measured.done < measured.total:
            raise SgaError(f"the script ended after {measured.done} of {measured.total} steps; see its messages above")
        page = report.write(out, measured, facts)
        print(f"\n{report.verdict(measured)}\n\n{page}\n{out / 'interference.json'}")


def _check_path(weights: Path, options: dict[str, Any]) -> None:
    """Raises SgaError for an adapter of another path than the straight one, which is the only one measured."""
    trained = read_header(weights)[METADATA].get("ss_sga_path", "linear")
    for path in (trained, options.get("sga_path", "linear")):
        if path != "linear":
            raise SgaError(f"{weights.name} is of sga_path={path}, and only adapters of the straight path are measured")


def _arguments(
    options: dict[str, Any], args: argparse.Namespace, further: list[str], folder: Path, measured: Any
) -> list[str]:
    """What the script is given: the TOML without what saves, samples and logs, and our own over it."""
    kept = read_options(["--config_file", str(args.config)])
    kept = {key: value for key, value in kept.items() if not key.startswith(_DROPPED) and key != "config_file"}
    network = [str(word) for word in kept.pop("network_args", None) or []]
    kept["network_args"] = [word for word in network if "dropout" not in word.partition("=")[0]]
    file = folder / "measure.toml"
    file.write_text(
        toml.dumps({key: value for key, value in kept.items() if value not in (None, [])}), encoding="utf-8"
    )
    ours = {
        "network_weights": args.weights.absolute(),
        "output_dir": folder,
        "output_name": "measure",
        # One more than needed, so that Enough comes before the script's own end.
        "max_train_steps": measured.total + 1,
        # Each start has its own points, so that one that goes on does not repeat what was measured.
        "seed": int(options.get("seed") or 0) + measured.done,
        "max_grad_norm": 0,
        "gradient_accumulation_steps": 1,
    }
    words = [f"--{key}={value}" for key, value in ours.items()]
    return ["--config_file", str(file), "--cache_latents", *further, *words]


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
