"""How long a door takes to its --help, as a ratio to the stock script: python -m tests.bench.start [--runs 5]

Both are started in turn. Compared is their processor time, which other programs disturb less than the clock.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys

from sga_kohya.hosts.sd_scripts.checkout import find_checkout

SCRIPTS = ("sdxl_train_network", "train_network", "flux_train_network")


def seconds(command: list[str]) -> float:
    """Processor time of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    root = find_checkout().root
    for script in SCRIPTS:
        stock = [sys.executable, str(root / f"{script}.py"), "--help"]
        door = [sys.executable, "-m", f"sga_kohya.{script}", "--help"]
        pairs = [(seconds(stock), seconds(door)) for _ in range(runs)]
        ratios = sorted(ours / theirs for theirs, ours in pairs)
        theirs = statistics.median(stock for stock, _ in pairs)
        print(f"{script}: {statistics.median(ratios):.2f} of stock's {theirs:.1f} s ({ratios[0]:.2f}-{ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
