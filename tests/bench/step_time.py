"""Time and memory of training through our door over those of stock sd-scripts, side by side, on the tiny stack.

    python tests/bench/step_time.py [--rounds 5] [--passes 240]

Both train the same slices in equal batches for equal forward passes and equal optimizer steps: stock with
gradient_accumulation_steps = 3, SGA with tuples of K = 3, both logging to TensorBoard. Runs alternate. What counts of
time is the median CPU time of an optimizer step (three passes), after the first 20 passes, so that start-up, other
processes and hiccups do not; of memory, the largest sum of torch's allocations (its profiler's record) over 12 passes,
beyond what was allocated when they began. Latents are cached there, because on a CPU the data loader's images, a tuple
step of which waits in the host's memory, would count as if they were on the device.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

TESTS = Path(__file__).resolve().parents[1]
WARM_UP = 20
PROFILED = 12
LEVELS_PER_GROUP = 3


def worker(measured: str) -> None:
    """Run tests/host/run.py in this process and print what was measured of it: "time" or "memory"."""
    sys.path.insert(0, str(TESTS / "host"))
    from accelerate import Accelerator

    watch = watch_time() if measured == "time" else watch_memory()
    next(watch)
    original = Accelerator.backward

    def backward(self, *args, **kwargs):
        original(self, *args, **kwargs)
        watch.send(None)

    Accelerator.backward = backward
    import run

    run.main()
    watch.close()


def watch_time() -> Iterator[None]:
    """Resumed after each backward pass; prints the passes and the milliseconds of CPU time of one when closed."""
    ticks = []
    try:
        while True:
            yield
            ticks.append(time.process_time())
    finally:
        kept = ticks[WARM_UP:]
        steps = [late - early for early, late in zip(kept, kept[LEVELS_PER_GROUP:], strict=False)]
        print(f"RESULT {len(ticks)} {median(steps) / LEVELS_PER_GROUP * 1000:.4f}")


def watch_memory() -> Iterator[None]:
    """As watch_time, but the megabytes."""
    import torch

    passes = 0
    while passes < WARM_UP:
        yield
        passes += 1
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        for _ in range(PROFILED):
            yield
            passes += 1
    held = highest = 0
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    try:
        while True:
            yield
            passes += 1
    finally:
        print(f"RESULT {passes} {highest / 1e6:.4f}")


def measure(door: str, measured: str, models: dict, dataset: Path, out: Path, passes: int) -> float:
    """Milliseconds of CPU time for one forward and backward pass, or megabytes."""
    from tests.host.conftest import default_checkout, to_arguments
    from tests.host.tiny_flux import lora_args

    accumulation = LEVELS_PER_GROUP if door == "stock" else 1
    steps = passes // LEVELS_PER_GROUP
    logs = {"logging_dir": out / "logs", "log_with": "tensorboard", "cache_latents": measured == "memory"}
    args = lora_args(models, dataset, out, max_train_steps=steps, gradient_accumulation_steps=accumulation, **logs)
    host = ["--checkout", str(default_checkout()), "--script", "flux_train_network.py", "--door", door]
    command = [sys.executable, __file__, "--worker", measured, *host, "--", *to_arguments(args)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    count, result = output.split("RESULT ")[1].split()
    if int(count) != steps * LEVELS_PER_GROUP:
        raise RuntimeError(f"{door} made {count} passes instead of {steps * LEVELS_PER_GROUP}")
    return float(result)


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
        table = [("time", "ms/pass", options.rounds, options.passes), ("memory", "MB", 1, 60)]
        print("measured   round      stock        SGA   ratio")
        for measured, unit, rounds, passes in table:
            ratios = []
            for number in range(rounds):
                doors = ("stock", "sga") if number % 2 == 0 else ("sga", "stock")
                made = {d: measure(d, measured, model_paths(folder), dataset, folder / "out", passes) for d in doors}
                ratios.append(made["sga"] / made["stock"])
                row = f"{number + 1:>5}   {made['stock']:>8.2f}   {made['sga']:>8.2f}   {ratios[-1]:.4f}   {unit}"
                print(f"{measured:<8}   {row}", flush=True)
            print(f"{measured}: median ratio {median(ratios):.4f}, from {min(ratios):.4f} to {max(ratios):.4f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        measured = sys.argv[2]
        del sys.argv[1:3]
        worker(measured)
    else:
        main()
