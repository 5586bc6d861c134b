"""ComfyUI's own loader knows every tensor of our adapters. Skipped where no public copy of it is found."""

import json
import subprocess
from pathlib import Path

import pytest

from ..forked import python
from ..trainers import TRAINERS
from .conftest import default_checkout

COMFYUI = TRAINERS / "ComfyUI"


@pytest.mark.skipif(not COMFYUI.is_dir(), reason=f"no copy of ComfyUI at {COMFYUI}")
def test_no_tensor_of_ours_is_unknown_to_comfyui(tmp_path):
    checkout = default_checkout()
    if checkout is None:
        pytest.skip("no sd-scripts checkout")
    command = [*python(), str(Path(__file__).with_name("comfyui.py")), str(checkout), str(COMFYUI)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("FOUND "))
    adapters, embeddings, (by_weight, by_sum) = json.loads(line.removeprefix("FOUND "))
    assert set(adapters) == {"FLUX LoRA", "FLUX DoRA", "SDXL LoCon", "SDXL LoRA", "SD 1.5 LoRA", "SD 1.5 LoCon"}
    for kind, (tensors, left_out) in adapters.items():
        assert tensors > 90 and left_out == [], kind
    assert embeddings == [[2, 768], [2, 768], [2, 1280]]
    assert by_weight < 1e-5 < 0.01 < by_sum, "the README's word on DoRA"
