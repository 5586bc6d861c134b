"""The real musubi-tuner, found as the package finds it. Runs share a process, because its imports are slow."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from . import tiny

CACHE = Path.home() / ".cache" / "sga_kohya"
NO_TUNER = (
    "NO musubi-tuner CHECKOUT, so nothing is tested on the second host. Get one with\n"
    f"  git clone --branch v0.3.4 https://github.com/kohya-ss/musubi-tuner {CACHE / 'musubi-tuner'}\n"
    "or set MUSUBI_TUNER_DIR to one."
)
LEVELS = ["macro", "meso", "micro"]
GROUPS = [LEVELS] * 3 + [["macro", "micro"]] * 2 + [["meso"]]
SIZES = [(128, 128), (64, 128), (128, 64)]


def default_tuner() -> Path | None:
    path = Path(os.environ.get("MUSUBI_TUNER_DIR") or CACHE / "musubi-tuner")
    return path if (path / "src" / "musubi_tuner" / "flux_2_train_network.py").exists() else None


@pytest.fixture(scope="session")
def tuner() -> Path:
    path = default_tuner()
    if path is None:
        pytest.skip(NO_TUNER)
    return path


@pytest.fixture(scope="session")
def world(tuner: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with flux2.safetensors and data/."""
    folder = tmp_path_factory.mktemp("musubi")
    run_jobs(tuner, folder, [{"write": str(folder), "groups": GROUPS, "sizes": SIZES}])
    return folder


@pytest.fixture
def run(tuner: Path, world: Path, tmp_path: Path) -> Callable[..., str]:
    """`run({"door": "sga", "out": NAME, …options})` for several runs in one process. Returns their output.

    record: the run's events go to NAME.pt. Everything else is an option of the host or of ours.
    """

    def run(*runs: dict[str, Any], timeout: float = 240) -> str:
        jobs = [_job(world, tmp_path, dict(options)) for options in runs]
        return run_jobs(tuner, tmp_path, jobs, timeout)

    return run


def _job(world: Path, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    out, door, record = (options.pop(name, None) for name in ("out", "door", "record"))
    dataset = options.pop("dataset", world / "data" / "dataset_musubi.toml")
    arguments = tiny.arguments(world / "flux2.safetensors", dataset, folder / out, **options)
    return {"door": door, "args": arguments, "record": str(folder / f"{out}.pt") if record else None}


def run_jobs(tuner: Path, folder: Path, jobs: Sequence[dict[str, Any]], timeout: float = 240) -> str:
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs, default=str))
    command = [sys.executable, str(Path(tiny.__file__)), str(tuner / "src"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=folder)
    if done.returncode:
        pytest.fail(f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}", pytrace=False)
    return done.stdout + done.stderr
