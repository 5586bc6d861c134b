"""What tests/bench measures goes on running, on little, while the package changes below it."""

import json
import subprocess
import sys
from pathlib import Path

from tests.bench import reference
from tests.reference_world import cut_photos

BENCH = Path(__file__).parent / "bench"


def test_the_simulation_of_a_million_photos_runs_for_a_few(tmp_path):
    words = [sys.executable, str(BENCH / "million.py"), "--photos", "60", "--folder", str(tmp_path)]
    ran = subprocess.run(words, capture_output=True, text=True, cwd=BENCH.parents[1])
    assert ran.stdout.startswith("60 photos: ") and "and takes it over" in ran.stdout, ran.stderr


def test_the_reference_trainer_is_measured_on_a_network_of_other_width(tmp_path, monkeypatch):
    small = {"attention_head_dim": 16, "axes_dims_rope": (4, 4, 8), "num_attention_heads": 3}
    monkeypatch.setitem(reference.REAL, "flux", reference.REAL["flux"] | small)
    monkeypatch.setattr(reference, "STEPS", 1)
    reference.make("flux", tmp_path / "model", share=0.05)
    found = reference.measure("flux", tmp_path / "model", cut_photos(tmp_path), tmp_path / "out", checkpointing=True)
    assert found["passes"] == 3 and found["seconds a pass"] > 0
    config = json.loads((tmp_path / "model" / "transformer" / "config.json").read_text())
    assert [config[name] for name in ("num_attention_heads", "num_layers", "num_single_layers")] == [3, 1, 2]
