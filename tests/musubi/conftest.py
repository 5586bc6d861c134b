"""The real musubi-tuner, found as the package finds it. Runs are forks of one process: its imports are slow."""

import importlib.util
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.host.run import without_card

from ..forked import python, ranks
from . import tiny
from .stacks import STACKS

CACHE = Path.home() / ".cache" / "sga_kohya"
NO_TUNER = (
    "NO musubi-tuner CHECKOUT, so nothing is tested on the second host. Get one with\n"
    f"  git clone --branch v0.3.4 https://github.com/kohya-ss/musubi-tuner {CACHE / 'musubi-tuner'}\n"
    "or set MUSUBI_TUNER_DIR to one."
)
TRANSFORMERS = "4.57.6"
NO_TRANSFORMERS = (
    f"NO transformers {TRANSFORMERS}, so Krea 2, Ideogram 4 and HiDream-O1 are not tested. Beside sd-scripts' "
    f"version, get it with\n  pip install --no-deps --target {CACHE}/transformers-{TRANSFORMERS} "
    f"transformers=={TRANSFORMERS} tokenizers==0.22.2\nor set SGA_TRANSFORMERS to such a folder."
)
LEVELS = ["macro", "meso", "micro"]
GROUPS = [LEVELS] * 3 + [["macro", "micro"]] * 2 + [["meso"]]
SIZES = [(128, 128), (64, 128), (128, 64)]
COMMON = {
    "output_name": "tiny",
    "optimizer_type": "AdamW",
    "learning_rate": 1e-2,
    "weighting_scheme": "none",
    "sdpa": True,
    "seed": 7,
    "max_data_loader_n_workers": 0,
    "max_train_epochs": 2,
}


def default_tuner() -> Path | None:
    path = Path(os.environ.get("MUSUBI_TUNER_DIR") or CACHE / "musubi-tuner")
    return path if (path / "src" / "musubi_tuner" / "flux_2_train_network.py").exists() else None


def other_tuners() -> list[Path]:
    """Further versions beside the default one."""
    default = default_tuner()
    beside = sorted(default.parent.glob("musubi-tuner-*")) if default else []
    return [path for path in beside if path != default and (path / "src" / "musubi_tuner").is_dir()]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`any_tuner` runs a test once for each version found."""
    if "any_tuner" in metafunc.fixturenames:
        default = default_tuner()
        found = [default, *other_tuners()] if default else [pytest.param(None, marks=pytest.mark.skip(reason=NO_TUNER))]
        # Of a module, so that all tests of a version come one after the other.
        metafunc.parametrize("any_tuner", found, ids=lambda path: path.name if path else "none", scope="module")


def own_transformers() -> Path | None:
    """A folder with the transformers that musubi-tuner pins, or a newer one; None where sd-scripts' is all there is."""
    installed = importlib.util.find_spec("transformers")
    places = [os.environ.get("SGA_TRANSFORMERS"), CACHE / f"transformers-{TRANSFORMERS}"]
    places += [Path(installed.origin).parents[1]] if installed and installed.origin else []
    return next((Path(p) for p in places if p and (Path(p) / "transformers" / "models" / "qwen3_vl").is_dir()), None)


def environment(of: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Of a process that runs musubi-tuner, with its own transformers where they are found."""
    return {**of, **({"PYTHONPATH": os.pathsep.join(folders())} if folders() else {})}


def folders() -> list[str]:
    """Of packages that go before the installed ones in that environment."""
    own = own_transformers()
    return [str(own)] if own else []


def needs(stack: str) -> None:
    """Skips the test where the stack cannot run."""
    if STACKS[stack].own_transformers and own_transformers() is None:
        pytest.skip(NO_TRANSFORMERS)


class Server:
    """A process that has imported a musubi-tuner, and forks for every list of jobs."""

    def __init__(self, tuner: Path):
        command = [*python(*folders()), str(Path(tiny.__file__)), str(tuner / "src"), "--serve"]
        self.errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115  closed by close
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors}
        self.process = subprocess.Popen(command, text=True, cwd=tuner, env=environment(), **pipes)
        if self._line() != "ready\n":
            self.errors.seek(0)
            pytest.fail(self.errors.read()[-3000:], pytrace=False)

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def do(self, folder: Path, jobs: Sequence[dict[str, Any]], seconds: int = 240) -> str:
        """What the jobs print. Fails the test when one of them does, or after so many seconds."""
        number = len(list(folder.glob("jobs*.json")))
        file, log = folder / f"jobs{number}.json", folder / f"jobs{number}.log"
        file.write_text(json.dumps(jobs, default=str))
        request = {"jobs": file, "log": log, "folder": folder, "seconds": seconds}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request, default=str) + "\n")
        self.process.stdin.flush()
        status, output = self._line(), log.read_text(errors="replace")
        if status != "0\n":
            pytest.fail(f"exit status {status}{output[-6000:]}", pytrace=False)
        return output

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.errors.close()


@pytest.fixture(scope="session")
def server_of() -> Iterator[Callable[[Path], Server]]:
    """The default version's stays; of the others one at a time, because each takes 0.8 GB."""
    servers: dict[Path, Server] = {}

    def server_of(tuner: Path) -> Server:
        if tuner not in servers:
            for other in [path for path in servers if path != default_tuner()]:
                servers.pop(other).close()
            servers[tuner] = Server(tuner)
        return servers[tuner]

    yield server_of
    for server in servers.values():
        server.close()


@pytest.fixture(scope="session")
def tuner() -> Path:
    path = default_tuner()
    if path is None:
        pytest.skip(NO_TUNER)
    return path


@pytest.fixture(scope="session")
def world_of(
    server_of: Callable[[Path], Server], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path, str], Path]:
    """`world_of(tuner, stack)`: a folder with STACK.safetensors and STACK/dataset_musubi.toml."""
    worlds: dict[tuple[Path, str], Path] = {}

    def world_of(tuner: Path, stack: str) -> Path:
        needs(stack)
        if (tuner, stack) not in worlds:
            folder = worlds[tuner, stack] = tmp_path_factory.mktemp("musubi")
            server_of(tuner).do(folder, [{"write": folder, "stack": stack, "groups": GROUPS, "sizes": SIZES}])
        return worlds[tuner, stack]

    return world_of


@pytest.fixture
def run(
    server_of: Callable[[Path], Server], world_of: Callable[[Path, str], Path], tmp_path: Path, request: Any
) -> Callable[..., str]:
    """`run({"door": "sga", "out": NAME, …options})` for several runs in one process. Returns their output.

    record: the run's events go to NAME.rank0.pt. stack: flux_2 unless given; script: its first. world: a folder other
    than the stack's usual one. status: the exit status to expect. Everything else is an option of the host or of ours.
    On the tuner given, or the default one.
    """

    def run(*runs: dict[str, Any], tuner: Path | None = None, nproc: int = 1) -> str:
        place = tuner or request.getfixturevalue("tuner")
        jobs = [
            _job(options.pop("world", None) or world_of(place, options["stack"]), tmp_path, options)
            for options in ({"stack": "flux_2", **one} for one in runs)
        ]
        return server_of(place).do(tmp_path, jobs) if nproc == 1 else _torchrun(place, tmp_path, jobs, nproc)

    return run


def _job(world: Path, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    out, stack = folder / options.pop("out"), options.pop("stack")
    own = STACKS[stack]
    job = {
        "door": options.pop("door"),
        "stack": stack,
        "script": options.pop("script", own.script),
        "status": options.pop("status", 0),
        "record": out if options.pop("record", False) else None,
    }
    return {**job, "args": {**COMMON, **own.arguments(world), "output_dir": out, **options}}


def _torchrun(tuner: Path, folder: Path, jobs: Sequence[dict[str, Any]], nproc: int) -> str:
    """Each process is torchrun's own."""
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs, default=str))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={nproc}", "--no-python"]
    rank = [*ranks(*folders()), str(Path(tiny.__file__)), str(tuner / "src"), str(file)]
    command = [*python(*folders()), *launcher, *rank]
    own = environment(without_card())
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=folder, env=own)
    if done.returncode:
        pytest.fail(f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}", pytrace=False)
    return done.stdout + done.stderr
