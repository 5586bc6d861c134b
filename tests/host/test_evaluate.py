"""Images of an evaluation plan come out of sd-scripts' own sampling, on the tiny FLUX."""

from pathlib import Path

import numpy as np
import pytest
import toml
from PIL import Image

from sga_kohya.evaluate.plan.plan_file import read_plan
from sga_kohya.evaluate.sample.generate import generate
from sga_kohya.evaluate.sample.images import all_images

from ..forked import python
from .conftest import RUNNER
from .data import write_dataset
from .tiny_flux import dora_args, lora_args

LEVELS = ("macro", "meso", "micro")


def write_plan(folder: Path, script: str, weights: Path, **generate_settings) -> Path:
    Image.new("RGB", (64, 64), "red").save(folder / "reference.png")
    plan = {
        "seeds": [1, 2],
        "datasets": [{"name": "tiny", "references": ".", "prompts": ["a red cat", "a blue dog"]}],
        "variants": [{"name": "base"}, {"name": "trained", "weights": str(weights)}],
        "human": {"references": 1},
        "generate": {"script": script, "width": 64, "height": 64, "steps": 2, **generate_settings},
    }
    path = folder / "plan.toml"
    path.write_text(toml.dumps(plan))
    return path


def command(checkout: Path, script: str) -> list[str]:
    return [*python(), str(RUNNER), "--checkout", str(checkout), "--script", script, "--door", "stock", "--"]


@pytest.mark.parametrize("kind", ["minimal inference", "trainer"])
def test_sampling_resumes_and_the_trained_network_is_in_it(run_host, checkout, tiny_models, tmp_path, kind):
    arguments = lora_args if kind == "minimal inference" else dora_args
    train = arguments(tiny_models, write_dataset(tmp_path / "data", [LEVELS]), tmp_path / "model", learning_rate=0.1)
    run_host("flux_train_network.py", "stock", train)
    weights = tmp_path / "model" / "tiny.safetensors"
    if kind == "trainer":
        script = "flux_train_network.py"
        (tmp_path / "train.toml").write_text(
            toml.dumps({key: str(value) if isinstance(value, Path) else value for key, value in train.items()})
        )
        further = {"config": "train.toml"}
    else:
        script = "flux_minimal_inference.py"
        further = {
            "arguments": {"ckpt_path": str(tiny_models["flux"]), "ae": str(tiny_models["ae"]), "dtype": "float32"}
        }
        further["arguments"] |= {"clip_l": "tiny", "t5xxl": "tiny"}
    plan = read_plan(write_plan(tmp_path, script, weights, **further))
    assert generate(plan, checkout, command(checkout, script)) == 8

    files = all_images(plan)
    pixels = {(cell.variant, cell.prompt, cell.seed): np.asarray(Image.open(path)) for cell, path in files.items()}
    assert {image.shape for image in pixels.values()} == {(64, 64, 3)}
    assert len({image.tobytes() for image in pixels.values()}) == 8  # prompt, seed and network all matter
    assert not any(Image.open(path).info for path in files.values())
    assert generate(plan, checkout, command(checkout, script)) == 0
    if kind == "minimal inference":  # resuming it is the same code, tested in tests/test_evaluate_generate.py
        return
    lost = files[next(cell for cell in files if cell.variant == "trained" and cell.prompt == 1 and cell.seed == 2)]
    lost.unlink()
    assert generate(plan, checkout, command(checkout, script)) == 1
    assert np.array_equal(np.asarray(Image.open(lost)), pixels["trained", 1, 2])
