"""The newest accelerate, on the real sd-scripts that pins 1.6.0: one run that saves, and one that resumes it."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from ..forked import python
from .conftest import RUNNER, start, to_arguments
from .data import write_dataset
from .test_sga import LORA, MIXED_K, assert_same_weights
from .tiny_flux import lora_args


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with accelerate alone."""
    folder = tmp_path_factory.mktemp("accelerate")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), "accelerate"]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("the newest accelerate could not be installed: no connection to PyPI")
    return folder


def test_the_newest_accelerate_trains_and_resumes(checkout, tiny_models, tmp_path, newest, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(newest))
    (found,) = importlib.metadata.distributions(name="accelerate", path=[str(newest)])
    dataset = write_dataset(tmp_path / "data", MIXED_K)
    options = {"max_train_steps": 7, "save_state": True, "save_every_n_steps": 4}

    def run(out: str, **further) -> None:
        args = lora_args(tiny_models, dataset, tmp_path / out, **options, **further)
        code = f"import accelerate, runpy, sys; assert accelerate.__version__ == {found.version!r}; del sys.argv[0]; "
        code += "runpy.run_path(sys.argv[0], run_name='__main__')"
        host = ["--checkout", str(checkout), "--script", LORA, "--door", "sga", "--", *to_arguments(args)]
        start([*python(str(newest)), "-c", code, str(RUNNER), *host], tmp_path, timeout=240)

    run("whole")
    run("resumed", resume=tmp_path / "whole" / "tiny-step00000004-state")
    assert_same_weights(tmp_path / "whole" / "tiny.safetensors", tmp_path / "resumed" / "tiny.safetensors")
