"""What cutting clips costs: processor seconds, frames a second and memory, of short clips and of one that is long.

python tests/bench/clips.py [--clips 4] [--seconds 10] [--size 1280x720]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests import clips

RUN = """
import sys
from sga_kohya.hsd.__main__ import main
status = main()
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
sys.exit(status)
"""


def measured(photos: Path, out: Path, *arguments: str) -> tuple[float, float, float]:
    """Seconds, processor seconds and peak memory in MB of a run."""
    start, before = time.perf_counter(), os.times()
    command = [sys.executable, "-c", RUN, str(photos), str(out), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - start, used, int(done.stderr.split()[-1]) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--size", default="1280x720")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        many, long = Path(folder, "many"), Path(folder, "long")
        drawn = [clips.picture(2 * number, (width, height)) for number in range(60)]
        for place, count, seconds in ((many, args.clips, args.seconds), (long, 1, 10 * args.seconds)):
            place.mkdir()
            for number in range(count):
                clips.write(place / f"{number}.mp4", 30 * seconds, 30, (width, height), lambda n: drawn[n % 60])
        print(f"{'':<28}{'wall s':>8}{'CPU s':>8}{'slices/CPU s':>14}{'MB':>7}")
        for name, place, arguments in (
            (f"{args.clips} clips, spatial", many, []),
            (f"{args.clips} clips, temporal", many, ["--clips", "temporal", "--clip_labels", "clip,moment,frame"]),
            (f"one, {10 * args.seconds} s, spatial", long, []),
            ("nothing new", many, []),
        ):
            out = Path(folder, "out" if place is many and not arguments else name.replace(" ", "-"))
            wall, cpu, memory = measured(place, out, *arguments)
            slices = len([*out.glob("*_*x*/*.mp4")])
            print(f"{name:<28}{wall:>8.1f}{cpu:>8.1f}{slices / cpu:>14.1f}{memory:>7.0f}")


if __name__ == "__main__":
    main()
