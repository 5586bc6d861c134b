"""The host's loop, reached through the frames of its function."""

import glob
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from sga_kohya.errors import SgaError
from sga_kohya.training import loop as module
from sga_kohya.training.loop import HostLoop

# A host whose counter is a plain variable, and one whose counter lives in a cell because a closure uses it.
PROGRAM = f"""
import sys, types
sga_kohya, errors = types.ModuleType("sga_kohya"), types.ModuleType("sga_kohya.errors")
errors.SgaError = ValueError
sys.modules |= {{"sga_kohya": sga_kohya, "sga_kohya.errors": errors}}
source = open({module.__file__!r}, encoding="utf-8").read()
exec(compile(source, "loop.py", "exec"), found := {{"__name__": "loop"}})

class Bar:
    n = initial = last_print_n = 0
    def refresh(self): pass

def ask(loop):
    loop.go_on_from(41)
    yield from range(3)

def plain(loop):
    progress_bar, global_step = Bar(), 0
    for _ in enumerate(ask(loop)):
        global_step += 1
    return global_step, progress_bar.n, loop.step()

def in_a_cell(loop):
    progress_bar, global_step = Bar(), 0
    tell = lambda: global_step
    for _ in enumerate(ask(loop)):
        global_step += 1
    return tell(), progress_bar.n, loop.step()

for host in (plain, in_a_cell):
    assert host(found["HostLoop"](None)) == (44, 41, 44), (host, host(found["HostLoop"](None)))
"""


def pythons() -> list[str]:
    """This one, and others that lie about: each version keeps variables in its own way."""
    return [sys.executable, *sorted(glob.glob(os.path.expanduser("~/.pyenv/versions/3.1[0-9].*/bin/python")))]


@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).parents[1].name)
def test_the_counter_is_set_in_the_host_s_frame(python):
    if subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 10))"]).returncode:
        pytest.skip("below Python 3.10")
    result = subprocess.run([python, "-c", PROGRAM], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_without_a_loop_there_is_a_clear_error():
    with pytest.raises(SgaError, match="cannot be resumed exactly"):
        HostLoop(Namespace()).go_on_from(3)


def test_options_come_back():
    loop = HostLoop(Namespace(save_every_n_epochs=2, sample_every_n_epochs=None))
    loop.silence()
    loop.replace(save_every_n_epochs=7, unknown=1)
    assert vars(loop.args) == {"save_every_n_epochs": 7, "sample_every_n_epochs": None}
    loop.restore()
    assert vars(loop.args) == {"save_every_n_epochs": 2, "sample_every_n_epochs": None}
