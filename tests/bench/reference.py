"""What the reference trainer needs of a card: networks of the real width, on random weights, with tiny encoders.

With a folder of the newest diffusers (.ci/run makes one):
PYTHONPATH=FOLDER:. python tests/bench/reference.py OUT [--kinds flux2,qwen-image] [--share 0.5] [--side 512]

A line for each run: the network's parameters, torch's highest memory while it is loaded and while it trains, in GB, and
seconds a pass (median, without the first). The tiny VAEs halve a picture less often than the real ones, so that one of
512 pixels has as many tokens as one of 1024. share: of the real number of blocks; the weights of the rest come on top.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch

from sga_kohya.config import SgaConfig
from sga_kohya.reference.options import RunOptions
from sga_kohya.reference.trainer import Trainer
from tests.reference_world import cut_photos
from tests.tiny_pipelines import TINY

REAL = {
    "flux": {
        **{"attention_head_dim": 128, "num_attention_heads": 24, "axes_dims_rope": (16, 56, 56)},
        **{"num_layers": 19, "num_single_layers": 38},
    },
    "flux2": {
        **{"attention_head_dim": 128, "num_attention_heads": 48, "axes_dims_rope": (32, 32, 32, 32)},
        **{"num_layers": 8, "num_single_layers": 48},
    },
    "qwen-image": {
        **{"attention_head_dim": 128, "num_attention_heads": 24, "axes_dims_rope": (16, 56, 56)},
        **{"num_layers": 60},
    },
}
"""What their networks are configured with; their blocks are counted under names that end in layers."""
ARMS = {"checkpointing": True, "without": False}
RANK, STEPS = 16, 5


def make(kind: str, folder: Path, share: float) -> None:
    """A pipeline whose network has the real width, and that share of its blocks."""
    pipeline = TINY[kind]()
    small = pipeline.transformer
    real = {n: max(1, round(share * value)) if n.endswith("layers") else value for n, value in REAL[kind].items()}
    pipeline.save_pretrained(folder)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            wide = type(small).from_config({**small.config, **real})
    finally:
        torch.set_default_dtype(torch.float32)
    shutil.rmtree(folder / "transformer")
    wide.save_pretrained(folder / "transformer")


def measure(kind: str, model: Path, dataset: Path, out: Path, checkpointing: bool) -> dict[str, float | str]:
    began = time.perf_counter()
    options = RunOptions(dataset, out, model=model, steps=STEPS, network_dim=RANK, gradient_checkpointing=checkpointing)
    trainer = Trainer(options, SgaConfig(groups_per_step=1))
    loaded, ready = _highest(), time.perf_counter()
    ticks: list[float] = []
    trainer.observe = lambda *_: ticks.append(_now())
    trainer.run()
    passes = [after - before for before, after in zip(ticks, ticks[1:], strict=False)]
    count = sum(p.numel() for p in trainer.stack.denoiser.parameters() if not p.requires_grad)
    return {
        "kind": kind,
        "parameters, billions": round(count / 1e9, 3),
        "precision": str(trainer.stack.denoiser.dtype),
        "loading, GB": loaded,
        "training, GB": _highest(),
        "seconds to load": round(ready - began, 1),
        "seconds a pass": round(median(passes), 3),
        "passes": len(ticks),
    }


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _highest() -> float:
    """Since the last call, of tensors."""
    if not torch.cuda.is_available():
        return 0.0
    found = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return round(found, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kinds", default="flux2,qwen-image")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--one", nargs=2, metavar=("KIND", "ARM"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    model, dataset = args.out / "model", args.out / "slices" / "dataset.toml"
    if args.one:
        kind, arm = args.one
        print(json.dumps({"arm": arm, **measure(kind, model / kind, dataset, args.out / kind / arm, ARMS[arm])}))
        return
    args.out.mkdir(parents=True)
    cut_photos(args.out, args.side)
    for kind in args.kinds.split(","):
        make(kind, model / kind, args.share)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        for arm in args.arms.split(","):  # a process each, so that memory is its own
            subprocess.run([sys.executable, __file__, args.out, "--one", kind, arm], check=False)


if __name__ == "__main__":
    main()
