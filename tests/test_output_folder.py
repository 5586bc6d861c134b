"""One run writes into an output_dir: real processes through a door, a patched checkout and install()."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from sga_kohya.kit.files import LOCK, only_writer

from . import stub_host
from .forked import python

# What a training script does, until it is told to end: settings, "models", a data loader's worker, the accelerator.
SCRIPT = """
import argparse, os, sys, time
from library import train_util
from library.config_util import add_config_arguments

def setup_parser():
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    for name in ("--config_file", "--output_dir", "--train_data_dir", "--seed"):
        parser.add_argument(name)
    for name in ("--debug_dataset", "--output_config"):
        parser.add_argument(name, action="store_true")
    return parser

def train(args):
    print("loading models in process", os.getpid(), flush=True)
    worker = os.fork()
    if worker == 0:
        time.sleep(30)
        os._exit(0)
    sys.stdin.readline()
    os.kill(worker, 9)

if __name__ == "__main__":
    parser = setup_parser()
    train(train_util.read_config_from_file(parser.parse_args(), parser))
"""
BY_PATH = "from sga_kohya import patched; patched.load(__file__)\n"
HELD = "another process is writing into {}: wait for its end, or give this run another output_dir"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = stub_host.write(tmp_path / "sd-scripts", flux_train_network=SCRIPT)
    (root / "library" / "__init__.py").write_text(BY_PATH)
    return root


@pytest.fixture
def start(checkout, tmp_path):
    """Start a run of the stub's script, through the door "module" or a patched checkout "path"."""
    photos, started = tmp_path / "photos", []
    photos.mkdir()

    def start(how: str, out: Path, *words: str, rank: str = "0") -> subprocess.Popen:
        command = {
            "module": ["-m", "sga_kohya.flux_train_network", f"--sd_scripts={checkout}"],
            "path": [str(checkout / "flux_train_network.py"), "--sga"],
        }[how]
        process = subprocess.Popen(
            [*python(), *command, f"--train_data_dir={photos}", f"--output_dir={out}", *words],
            **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
            text=True,
            env={**os.environ, "RANK": rank},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def trains(process: subprocess.Popen) -> int:
    """The process that has come to its models, 0 where none does."""
    return next((int(line.split()[-1]) for line in process.stdout if line.startswith("loading models")), 0)


def refused(process: subprocess.Popen) -> str:
    """Its one line; it must not have loaded anything."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and "loading models" not in out, out + err
    assert err.startswith("sga_kohya: error: ") and err.count("\n") == 1, err
    return err


def end(process: subprocess.Popen) -> None:
    _, err = process.communicate("\n", timeout=60)
    assert process.returncode == 0, err


def test_a_second_run_into_one_folder_is_refused_in_one_sentence_before_models(start, tmp_path):
    """Through either way in, and also where the second is a baseline, whose files would mix as well."""
    out = tmp_path / "out"
    holder = start("path", out)
    assert trains(holder)
    seconds = start("path", out), start("module", out), start("module", out, "--sga=false")
    for second in seconds:
        assert HELD.format(out) in refused(second)
    other = start("module", tmp_path / "other")
    assert trains(other)
    end(other)
    end(holder)


def test_a_killed_run_whose_workers_live_on_holds_nothing(start, tmp_path):
    holder = start("module", tmp_path / "out")
    os.kill(trains(holder), signal.SIGKILL)  # its worker is still asleep
    assert holder.wait() == -signal.SIGKILL
    again = start("path", tmp_path / "out")
    assert trains(again)
    end(again)


def test_only_the_main_process_holds_it_and_who_only_looks_does_not_ask(start, tmp_path):
    out = tmp_path / "out"
    holder = start("module", out)
    assert trains(holder)
    for process in (start("module", out, rank="1"), start("module", out, "--debug_dataset")):
        assert trains(process)
        end(process)
    end(holder)


def test_a_folder_that_cannot_be_is_one_sentence(start, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file cannot be written (File exists): give this run another output_dir" in refused(
        start("module", tmp_path / "file")
    )


def test_one_python_process_trains_twice_in_turn(checkout, tmp_path):
    """In one installation, in two, and into the same folder; each run lets go of the last one's."""
    code = f"""
import argparse, sys
import sga_kohya
from sga_kohya.kit.files import only_writer

def begin(out):
    from library import train_util
    return train_util.read_config_from_file(argparse.Namespace(config_file=None, output_dir=out), None)

def free(out):
    try:
        with only_writer(out, ""):
            return True
    except sga_kohya.SgaError:
        return False

from pathlib import Path
a, b = Path("a"), Path("b")
with sga_kohya.install(sd_scripts={str(checkout)!r}):
    begin("a"), begin("a")
    print(free(a), end=" ")
    begin("b")
    print(free(a), free(b), end=" ")
print(free(b), end=" ")
sga_kohya.install(sd_scripts={str(checkout)!r})
begin("b")
sga_kohya.install(sd_scripts={str(checkout)!r})
print(free(b), end=" ")
begin("b")
print(free(b), end=" ")
sga_kohya.uninstall()
print(free(b))
"""
    result = subprocess.run([*python(), "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.stdout.strip() == "False True False True True False True", result.stderr


HOLDER = """
from pathlib import Path
from sga_kohya.kit.files import only_writer

with only_writer(Path({!r}), ""):
    print(flush=True)
    input()
"""
COMMANDS = {
    "reference": ["--dataset_config={folder}/d.toml", "--steps=1", "--out={out}"],
    "spherical": ["ablation", "{out}", "--quick"],
    "demo": ["--quick", "--out={out}"],
}


@pytest.fixture
def held(tmp_path):
    """A folder that another process writes into."""
    out = tmp_path / "out"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(str(out))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    holder.stdout.readline()
    yield out
    holder.communicate(b"\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_other_commands_that_train_hold_their_folder_as_well(held, tmp_path, command, capsys):
    main = import_module(f"sga_kohya.{command}.__main__").main
    words = [word.format(out=held, folder=tmp_path) for word in COMMANDS[command]]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert f"another process is writing into {held}" in error and error.count("\n") == 1
    assert [path.name for path in held.iterdir()] == [LOCK]


def test_a_file_system_without_locks_is_said_and_no_obstacle(tmp_path, monkeypatch, capsys):
    def acquire(*args, **kwargs):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with only_writer(tmp_path, ""):
        assert "has no locks" in capsys.readouterr().out
