"""Fixtures that run the real sd-scripts on CPU, each run a fork with its imports done: half of its time were those."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from ..forked import python, ranks
from . import run as runner
from .tiny_flux import model_paths

RUNNER = Path(runner.__file__)
REPOSITORY = RUNNER.parents[2]
CACHE = Path.home() / ".cache" / "sga_kohya"
NO_CHECKOUT = (
    "NO sd-scripts CHECKOUT, so nothing is tested on the real host. Get one with\n"
    f"  git clone --branch v0.11.1 https://github.com/kohya-ss/sd-scripts {CACHE / 'sd-scripts'}\n"
    "or set SD_SCRIPTS_DIR to one."
)


@dataclass
class HostRun:
    returncode: int
    output: str  # stdout and stderr of all ranks
    seconds: float
    events: list[list[dict[str, Any]]] = field(default_factory=list)  # for each rank, see run.py

    def of(self, kind: str, rank: int = 0) -> list[dict[str, Any]]:
        return [event for event in self.events[rank] if event["kind"] == kind]


def default_checkout() -> Path | None:
    path = Path(os.environ.get("SD_SCRIPTS_DIR") or CACHE / "sd-scripts")
    return path if (path / "flux_train_network.py").exists() else None


def other_checkouts() -> list[Path]:
    """Further versions beside the default one, those with FLUX."""
    default = default_checkout()
    beside = sorted(default.parent.glob("sd-scripts-*")) if default else []
    return [path for path in beside if path != default and (path / "flux_train_network.py").exists()]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`other_checkout` runs a test once for each further version, `any_checkout` on the default one as well."""
    default = default_checkout()
    found = {"other_checkout": other_checkouts(), "any_checkout": [default, *other_checkouts()] if default else []}
    for name in found.keys() & set(metafunc.fixturenames):
        reason = "no other version found" if default else NO_CHECKOUT
        nothing = [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
        metafunc.parametrize(name, found[name] or nothing, ids=lambda path: path.name if path else "none")


@pytest.fixture(scope="session")
def checkout() -> Path:
    path = default_checkout()
    if path is None:
        pytest.skip(NO_CHECKOUT)
    return path


@pytest.fixture(scope="session")
def tiny_models(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One set for all versions: the names of FLUX's tensors have not changed."""
    folder = tmp_path_factory.mktemp("tiny_flux")
    start([*python(), str(RUNNER), "--checkout", str(checkout), "--write_models", str(folder)], folder, 120)
    return model_paths(folder)


@pytest.fixture
def run_host(checkout: Path, tmp_path: Path) -> Callable[..., HostRun]:
    """Run a script of the host: `run_host(script, door, args)`, door "stock" or "sga".

    args: a mapping of option to value (True is a bare flag, None and False leave it out), or raw arguments.
    record: True loads what each rank recorded. check: a run that fails is an error that shows the output's end.
    """

    def run(
        script: str,
        door: str,
        args: Mapping[str, Any] | Sequence[str],
        record: bool = False,
        checkout: Path = checkout,
        nproc: int = 1,
        timeout: float = 180,
        check: bool = True,
    ) -> HostRun:
        launcher = [*python()]
        if nproc > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={nproc}", "--no-python"]
            launcher += ranks()
        # a number per run: a test may record several
        file = tmp_path / f"record{len(list(tmp_path.glob('record*.rank0.pt')))}.pt"
        command = [*launcher, str(RUNNER), "--checkout", str(checkout), "--script", script, "--door", door]
        command += [f"--record={file}"] if record else []
        command += ["--", *(to_arguments(args) if isinstance(args, Mapping) else args)]
        result = start(command, tmp_path, timeout, check, runner.without_card() if nproc > 1 else None)
        files = [file.with_suffix(f".rank{rank}.pt") for rank in range(nproc)] if record else []
        result.events = [torch.load(path, "cpu", weights_only=False) for path in files if path.exists()]
        return result

    return run


def to_arguments(args: Mapping[str, Any]) -> list[str]:
    arguments = []
    for key, value in args.items():
        if value is None or value is False:
            continue
        values = [] if value is True else value if isinstance(value, list | tuple) else [value]
        arguments += [f"--{key}", *map(str, values)]
    return arguments


def start(
    command: Sequence[str],
    folder: Path,
    timeout: float,
    check: bool = True,
    environment: Mapping[str, str] | None = None,
) -> HostRun:
    """Run a command, in that environment or this one. Of one that takes longer, the output so far is the result."""
    log = folder / "output.log"
    began = time.perf_counter()
    with log.open("wb") as out:
        # A session of its own, so that a timeout ends torchrun's and the data loader's children too.
        own = {"env": environment, "start_new_session": True}
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out, **own)
        try:
            status, late = process.wait(timeout), ""
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            status, late = process.wait(), f"\nended after {timeout} s"
    output = log.read_text(errors="replace") + late
    if check and status != 0:
        pytest.fail(f"exit status {status} of {' '.join(command)}\n{output[-6000:]}", pytrace=False)
    return HostRun(status, output, time.perf_counter() - began)
