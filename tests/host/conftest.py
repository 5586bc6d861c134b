"""Fixtures that run the real sd-scripts on CPU, each run in a process of its own.

Runs are forked from a server that has imported what the host needs of PyPI, and nothing of the host or of sga_kohya:
half of a run's ten seconds were those imports. Runs of several processes are started by torchrun, from nothing.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from . import run as runner
from .tiny_flux import model_paths

RUNNER = Path(runner.__file__)
REPOSITORY = RUNNER.parents[2]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("torch", "torch.utils.tensorboard", "torchvision", "scipy.stats", "scipy.ndimage", "cv2"),
        *("accelerate", "diffusers", "diffusers.pipelines", "lycoris.kohya", "rich.logging", "voluptuous"),
        *("transformers.models.clip.modeling_clip", "transformers.models.t5.modeling_t5", "transformers.optimization"),
        *("transformers.models.gemma2.modeling_gemma2", "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl"),
        *("transformers.models.qwen3.modeling_qwen3", "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion"),
    ]
)
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
    start([sys.executable, str(RUNNER), "--checkout", str(checkout), "--write_models", str(folder)], folder, 120)
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
        launcher = [sys.executable]
        if nproc > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={nproc}"]
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
    command: list[str],
    folder: Path,
    timeout: float,
    check: bool = True,
    environment: Mapping[str, str] | None = None,
) -> HostRun:
    """Run a command: run.py's arguments by a fork, anything else as it is, in that environment or this one."""
    log = folder / "output.log"
    began = time.perf_counter()
    if command[:2] == [sys.executable, str(RUNNER)]:
        status = _fork(command[1:], folder, log, timeout)
    else:
        status = _spawn(command, folder, log, timeout, environment)
    output = log.read_text(errors="replace")
    if status is None:
        status, output = -signal.SIGKILL, f"{output}\nended after {timeout} s"
    if check and status != 0:
        pytest.fail(f"exit status {status} of {' '.join(command)}\n{output[-6000:]}", pytrace=False)
    return HostRun(status, output, time.perf_counter() - began)


def _spawn(
    command: list[str], folder: Path, log: Path, timeout: float, environment: Mapping[str, str] | None
) -> int | None:
    """The exit status, None after the timeout."""
    with log.open("wb") as out:
        # A session of its own, so that a timeout ends torchrun's and the data loader's children too.
        own = {"env": environment, "start_new_session": True}
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out, **own)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None


def _fork(arguments: list[str], folder: Path, log: Path, timeout: float) -> int | None:
    """As _spawn."""
    child = fork(arguments, folder, log)
    child.join(timeout)
    if child.exitcode is None:
        kill(child)
        return None
    return child.exitcode


def fork(arguments: list[str], folder: Path, log: Path) -> multiprocessing.Process:
    """Begin a run of run.py. The server keeps the environment in which it was started, so run.py's is set meanwhile."""
    child = FORKS.Process(target=_child, args=(arguments, folder, log, dict(os.environ)))
    with mock.patch.dict(os.environ, runner.OFFLINE):
        child.start()
    return child


def kill(child: multiprocessing.Process) -> None:
    """SIGKILL, with its data loader's workers."""
    os.killpg(child.pid or 0, signal.SIGKILL)
    child.join()


def _child(arguments: list[str], folder: Path, log: Path, environment: dict[str, str]) -> None:
    os.setsid()
    with log.open("wb") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # As when Python runs the file: its folder comes first, and the test process's packages are not there yet.
    sys.path[:] = [str(RUNNER.parent), *(entry for entry in sys.path if entry not in ("", str(REPOSITORY)))]
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "sga_kohya")]:
        del sys.modules[name]
    sys.argv = arguments
    runpy.run_path(str(RUNNER), run_name="__main__")
