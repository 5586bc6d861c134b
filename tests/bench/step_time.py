"""Time of a forward and backward pass through our door over that of stock sd-scripts, side by side, on the tiny stack.

    python tests/bench/step_time.py [--rounds 5] [--passes 240]

Both train the same slices in equal batches for equal forward passes and equal optimizer steps: stock with
gradient_accumulation_steps = 3, SGA with tuples of K = 3. Runs alternate. What counts is the median CPU time of an
optimizer step (three passes), after the first 20 passes, so that start-up, other processes and hiccups do not.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

TESTS = Path(__file__).resolve().parents[1]
WARM_UP = 20
LEVELS_PER_GROUP = 3


def worker() -> None:
    """Run tests/host/run.py in this process, noting the CPU time at each backward pass."""
    sys.path.insert(0, str(TESTS / "host"))
    from accelerate import Accelerator

    ticks = []
    original = Accelerator.backward

    def backward(self, *args, **kwargs):
        original(self, *args, **kwargs)
        ticks.append(time.process_time())

    Accelerator.backward = backward
    import run

    run.main()
    kept = ticks[WARM_UP:]
    steps = [late - early for early, late in zip(kept, kept[LEVELS_PER_GROUP:], strict=False)]
    print(f"RESULT {len(ticks)} {median(steps) / LEVELS_PER_GROUP * 1000:.4f}")


def measure(door: str, models: dict, dataset: Path, out: Path, passes: int) -> float:
    """Milliseconds of CPU time for one forward and backward pass."""
    from tests.host.conftest import default_checkout, to_arguments
    from tests.host.tiny_flux import lora_args

    accumulation = LEVELS_PER_GROUP if door == "stock" else 1
    steps = passes // LEVELS_PER_GROUP
    args = lora_args(models, dataset, out, max_train_steps=steps, gradient_accumulation_steps=accumulation)
    host = ["--checkout", str(default_checkout()), "--script", "flux_train_network.py", "--door", door]
    command = [sys.executable, __file__, "--worker", *host, "--", *to_arguments(args)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    count, milliseconds = output.split("RESULT ")[1].split()
    if int(count) != steps * LEVELS_PER_GROUP:
        raise RuntimeError(f"{door} made {count} passes instead of {steps * LEVELS_PER_GROUP}")
    return float(milliseconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passes", type=int, default=240)
    options = parser.parse_args()
    sys.path.insert(0, str(TESTS.parent))
    from tests.host.conftest import default_checkout
    from tests.host.data import LEVELS, SQUARE, write_dataset
    from tests.host.tiny_flux import model_paths

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = write_dataset(folder / "data", [LEVELS] * 8, sizes=SQUARE)
        writer = [sys.executable, str(TESTS / "host" / "run.py"), "--checkout", str(default_checkout())]
        subprocess.run([*writer, "--write_models", str(folder)], check=True, capture_output=True)
        ratios = []
        print("round   stock ms/pass   SGA ms/pass   ratio")
        for number in range(options.rounds):
            doors = ("stock", "sga") if number % 2 == 0 else ("sga", "stock")
            times = {d: measure(d, model_paths(folder), dataset, folder / "out", options.passes) for d in doors}
            ratios.append(times["sga"] / times["stock"])
            print(f"{number + 1:>5}   {times['stock']:>13.2f}   {times['sga']:>11.2f}   {ratios[-1]:.4f}", flush=True)
        print(f"median ratio {median(ratios):.4f}, from {min(ratios):.4f} to {max(ratios):.4f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        del sys.argv[1]
        worker()
    else:
        main()
