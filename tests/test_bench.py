"""What tests/bench measures goes on running, on little, while the package changes below it."""

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent / "bench"


def test_the_simulation_of_a_million_photos_runs_for_a_few(tmp_path):
    words = [sys.executable, str(BENCH / "million.py"), "--photos", "60", "--folder", str(tmp_path)]
    ran = subprocess.run(words, capture_output=True, text=True, cwd=BENCH.parents[1])
    assert ran.stdout.startswith("60 photos: ") and "and takes it over" in ran.stdout, ran.stderr
