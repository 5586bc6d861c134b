"""A training and the doctor as on Windows: spawned workers, a console of cp932, a user with an accent in the name."""

import sys

import pytest
import torch
from safetensors.torch import load_file

from ..forked import python
from .conftest import RUNNER, start, to_arguments
from .data import LEVELS, write_dataset
from .tiny_flux import lora_args

AS_ON_WINDOWS = """
import multiprocessing, pathlib, runpy, sys

multiprocessing.set_start_method("spawn")
sys.argv.pop(0)
sys.path[0] = str(pathlib.Path(sys.argv[0]).parent)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def console(monkeypatch) -> None:
    for name, value in {"PYTHONIOENCODING": "cp932", "PYTHONUTF8": "0", "LC_ALL": "C.UTF-8"}.items():
        monkeypatch.setenv(name, value)


def test_a_training_is_the_same_as_here(console, run_host, tiny_models, checkout, tmp_path):
    home = tmp_path / "C" / "Zoë"
    dataset = write_dataset(home / "data", [LEVELS] * 2 + [("macro", "micro")])
    options = {"max_train_steps": 3, "max_data_loader_n_workers": 1, "persistent_data_loader_workers": True}
    run_host("flux_train_network.py", "sga", lora_args(tiny_models, dataset, tmp_path / "here", **options))
    command = [sys.executable, "-c", AS_ON_WINDOWS, str(RUNNER), "--checkout", str(checkout)]
    command += ["--script", "flux_train_network.py", "--door", "sga", "--"]
    command += to_arguments(lora_args(tiny_models, dataset, home / "out", **options))
    result = start(command, tmp_path, 300)
    assert result.output.count("SGA tuple plan") == 1 and "|" in result.output
    here, there = (load_file(folder / "tiny.safetensors") for folder in (tmp_path / "here", home / "out"))
    assert here.keys() == there.keys() and all(torch.equal(here[key], there[key]) for key in here)


def test_the_doctor_draws_its_plan(console, tiny_models, checkout, tmp_path):
    dataset = write_dataset(tmp_path / "Zoë", [LEVELS] * 2)
    words = to_arguments(lora_args(tiny_models, dataset, tmp_path / "out"))
    command = [*python(), "-m", "sga_kohya.doctor", "--sd_scripts", str(checkout), *words]
    output = start(command, tmp_path, 180, check=False).output
    (line,) = (line for line in output.splitlines() if line.split()[:2] == ["macro", "2"])
    bars = line.partition("|")[2].removesuffix("|")
    assert len(bars) == 20 and bars.isascii() and bars.strip()
    assert "Traceback" not in output and "UnicodeEncodeError" not in output
