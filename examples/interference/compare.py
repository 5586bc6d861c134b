"""One dataset, five runs: what the interference probe shows of a baseline, of SGA, and of SGA with gradient surgery.

    python examples/interference/compare.py OUT [--passes 720]

Photos from scikit-image, cut by H-SD; a toy transformer from scratch (the reference trainer), so that it runs on a CPU
in minutes. All runs see the same slices and make the same number of forward passes. Needs `pip install -e ".[demo]"`.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean

from sga_kohya.config import SgaConfig
from sga_kohya.demo.photos import copy_photos
from sga_kohya.hsd import HsdConfig, LevelConfig
from sga_kohya.hsd import run as decompose
from sga_kohya.reference.options import RunOptions
from sga_kohya.reference.trainer import Trainer
from sga_kohya.tuples.records import read_records
from sga_kohya.tuples.split import attach

# A size for each granularity, as H-SD gives real data: a stock batch then holds one granularity.
SIDES = {"macro": 192, "meso": 128, "micro": 64}
RUNS = {
    "baseline": SgaConfig(tuples=False, modulation=False),
    "tuples only": SgaConfig(modulation=False),
    "SGA": SgaConfig(),
    "SGA, PCGrad": SgaConfig(gradient_surgery="pcgrad"),
    "SGA, CAGrad": SgaConfig(gradient_surgery="cagrad"),
}
PROBED = 40  # steps of each run
BATCH = 2


def train(name: str, config: SgaConfig, dataset: Path, out: Path, passes: int) -> list[dict]:
    """One run. Returns its records."""
    steps = passes if name == "baseline" else passes // len(SIDES)
    options = RunOptions(dataset, out, steps=steps, batch_size=BATCH, lr=2e-3, width=64, depth=3, pool=8)
    trainer = Trainer(options, config)
    file = out / "interference.jsonl"
    every = max(steps // PROBED, 1)
    probed = SgaConfig(probe_every=every, gradient_surgery=config.gradient_surgery)
    attach(trainer.accelerator, probed, file, lambda figures: None)
    trainer.run()
    return read_records(file)


def row(name: str, found: list[dict]) -> list[str]:
    """A run's line of the table: means over the second half of its records."""
    late = found[len(found) // 2 :]
    window = late[-1]["window"]

    def mean(key: str) -> str:
        values = [record[key] for record in late if record.get(key) is not None]
        return f"{fmean(values):+.2f}" if values else "-"

    def pooled(key: str) -> str:
        chance = window.get("control", {}).get(key)
        return f"{window[key]:+.2f} ({chance['low']:+.2f} to {chance['high']:+.2f})" if chance else "-"

    conflict = f"{window['conflict_rate']:.0%}" if "conflict_rate" in window else "-"
    return [name, mean("cosine/macro-micro"), conflict, pooled("cosine/macro-micro"), mean("step_cosine")]


HEAD = [
    "run",
    "cosine macro-micro in a step",
    "steps' pairs in conflict",
    "cosine macro-micro, 16 steps summed (random partitions)",
    "cosine of a probed step with the last",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--passes", type=int, default=720, help="forward passes of each run (default: 720)")
    options = parser.parse_args()
    photos = options.out / "photos"
    copy_photos(photos, 6)
    levels = tuple(LevelConfig(name, resolution=side, sizes=((side, side),)) for name, side in SIDES.items())
    decompose(photos, options.out / "slices", HsdConfig(levels=levels, min_size=64, batch_size=BATCH), workers=2)
    dataset = options.out / "slices" / "dataset.toml"
    found = {
        name: train(name, config, dataset, options.out / name.replace(", ", "_").replace(" ", "_"), options.passes)
        for name, config in RUNS.items()
    }
    lines = [HEAD, ["---"] * len(HEAD), *(row(name, records) for name, records in found.items())]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    (options.out / "table.md").write_text(table + "\n", encoding="utf-8")
    (options.out / "records.json").write_text(json.dumps(found), encoding="utf-8")
    print(f"\n{table}")


if __name__ == "__main__":
    main()
