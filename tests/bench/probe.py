"""What the interference probe costs: on probed steps, on the others, and for an adapter of FLUX's real size.

    python tests/bench/probe.py [--rounds 3] [--steps 60] [--rank 16]

First the probe alone on random gradients of a LoRA with the layers of FLUX.1 (57 blocks), three sub-batches a step, on
the GPU if there is one. Then the tiny stack through our door: median CPU time of a tuple step (three passes) of a run
without probe, and of the probed and the other steps of a run with sga_probe_every=2; runs alternate. A probe's cost is
the difference inside one run; that other steps cost nothing is what tests/test_probe.py proves, and only shown here.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

TESTS = Path(__file__).resolve().parents[1]
WARM_UP = 10
LEVELS_PER_GROUP = 3


def worker() -> None:
    """Run tests/host/run.py in this process, noting the CPU time at the end of each optimizer step."""
    sys.path.insert(0, str(TESTS / "host"))
    import run
    from accelerate.optimizer import AcceleratedOptimizer

    ticks = []
    original = AcceleratedOptimizer.step

    def step(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if self.gradient_state.sync_gradients:
            ticks.append(time.process_time())

    AcceleratedOptimizer.step = step
    run.main()
    spans = [late - early for early, late in zip(ticks, ticks[1:], strict=False)][WARM_UP:]
    # spans[0] is that of step WARM_UP + 2; even steps are the probed ones
    print(f"RESULT {median(spans[0::2]) * 1000:.4f} {median(spans[1::2]) * 1000:.4f}")


def measure(every: int, models: dict, dataset: Path, out: Path, steps: int) -> tuple[float, float]:
    """Milliseconds of CPU time of an even and of an odd step."""
    from tests.host.conftest import default_checkout, to_arguments
    from tests.host.tiny_flux import lora_args

    args = lora_args(models, dataset, out, max_train_steps=steps, sga_probe_every=every)
    host = ["--checkout", str(default_checkout()), "--script", "flux_train_network.py", "--door", "sga"]
    command = [sys.executable, __file__, "--worker", *host, "--", *to_arguments(args)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    even, odd = map(float, output.split("RESULT ")[1].split())
    return even, odd


def tiny_stack(rounds: int, steps: int) -> None:
    from tests.host.conftest import default_checkout
    from tests.host.data import LEVELS, SQUARE, write_dataset
    from tests.host.tiny_flux import model_paths

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = write_dataset(folder / "data", [LEVELS] * 8, sizes=SQUARE)
        writer = [sys.executable, str(TESTS / "host" / "run.py"), "--checkout", str(default_checkout())]
        subprocess.run([*writer, "--write_models", str(folder)], check=True, capture_output=True)
        print("round   no probe ms/step   probed   others   probed - others")
        extra, ratio = [], []
        for number in range(rounds):
            found = {}
            for every in (0, 2) if number % 2 == 0 else (2, 0):
                found[every] = measure(every, model_paths(folder), dataset, folder / "out", steps)
            plain = sum(found[0]) / 2
            extra.append(found[2][0] - found[2][1])
            ratio.append(found[2][1] / plain)
            print(f"{number + 1:>5}   {plain:>16.1f}   {found[2][0]:>6.1f}   {found[2][1]:>6.1f}   {extra[-1]:>+10.1f}")
        print(f"probed steps: median {median(extra):+.1f} ms; other steps over no probe: median {median(ratio):.3f}")


def flux_adapter(rank: int) -> None:
    """FLUX.1's 19 double and 38 single blocks, width 3072: the linear layers that sd-scripts' LoRA trains."""
    import torch

    from sga_kohya.tuples.accelerator import TupleAccelerator
    from sga_kohya.tuples.gradients import trained
    from sga_kohya.tuples.probe import Probe

    width, mlp = 3072, 12288
    double = [(width, 3 * width), (width, width), (width, mlp), (mlp, width), (width, 6 * width)] * 2
    single = [(width, 3 * width + mlp), (width + mlp, width), (width, 3 * width)]
    accelerator = TupleAccelerator()
    model = torch.nn.Module()
    for number, (inputs, outputs) in enumerate(double * 19 + single * 38):
        layer = torch.nn.Module()
        layer.lora_down = torch.nn.Linear(inputs, rank, bias=False)
        layer.lora_up = torch.nn.Linear(rank, outputs, bias=False)
        model.add_module(f"layer_{number}", layer)
    accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1))
    probe = Probe(accelerator, 1, lambda record: None)
    parameters = trained(accelerator)
    clock = time.process_time if accelerator.device.type == "cpu" else time.perf_counter
    times = []
    for step in range(5):
        split = [[torch.randn_like(p) for p in parameters] for _ in range(LEVELS_PER_GROUP)]
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        began = clock()
        for label, gradients in zip(("macro", "meso", "micro"), split, strict=True):
            probe.add(label, gradients, 1.0)
        probe.finish(step + 1)
        times.append(clock() - began)
    count = sum(p.numel() for p in parameters)
    copies = LEVELS_PER_GROUP * count * 4 / 2**20 if probe.exact else 0
    print(
        f"FLUX.1 LoRA of rank {rank}: {count / 1e6:.0f} M numbers in {len(parameters)} tensors; the probe itself takes "
        f"{median(times[1:]):.2f} s a step on {accelerator.device}, {torch.get_num_threads()} threads, and "
        f"{copies:.0f} MiB for {LEVELS_PER_GROUP} granularities (0: sketched)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rank", type=int, default=16)
    options = parser.parse_args()
    sys.path.insert(0, str(TESTS.parent))
    flux_adapter(options.rank)
    tiny_stack(options.rounds, options.steps)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        del sys.argv[1]
        worker()
    else:
        main()
