"""tests/forked.py, on which other tests rest: what is started by it cannot be told from Python itself."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .forked import python, ranks

SAY = """
import json, os, sys
print(json.dumps([sys.argv, sys.path[0], os.getcwd(), os.environ.get("WORD"), sys.stdin.read(), sys.stdout.encoding]))
print("too", file=sys.stderr)
sys.exit(3)
"""
SLEEP = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


def said(*begin: str, words: list[str], folder: Path) -> tuple[int, list, str]:
    environment = {**os.environ, "WORD": "a word", "PYTHONIOENCODING": "cp932"}
    done = subprocess.run(
        [*begin, *words], cwd=folder, env=environment, input="given", capture_output=True, text=True, timeout=60
    )
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.mark.parametrize("words", [["-c", SAY, "x", "-y"], ["say.py", "x"], ["-m", "say", "x"]], ids=lambda w: w[0])
def test_code_files_and_modules_find_what_python_gives_them(tmp_path, words):
    (tmp_path / "say.py").write_text(SAY)
    assert said(*python(), words=words, folder=tmp_path) == said(sys.executable, words=words, folder=tmp_path)


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("", 0, ""),
        ("import sys; sys.exit('no')", 1, "no"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt"),
        ("import os; os.abort()", -signal.SIGABRT, ""),
    ],
)
def test_it_ends_as_python_does(code, status, words):
    done = subprocess.run([*python(), "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.strip().rpartition("\n")[2] == words


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_who_ends_what_was_started_ends_the_fork(number):
    with subprocess.Popen([*python(), "-c", SLEEP], stdout=subprocess.PIPE) as process:
        fork = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(30) == -number
    while Path(f"/proc/{fork}").exists():  # ends by pytest's own timeout where it does not
        time.sleep(0.01)


def test_it_begins_with_torch_and_nothing_of_ours():
    code = "import sys; print(*('torch' in sys.modules, any(name.startswith('sga_kohya') for name in sys.modules)))"
    assert subprocess.run([*python(), "-c", code], capture_output=True, text=True).stdout == "True False\n"


def test_ranks_hash_strings_each_in_its_own_way_and_forks_draw_their_own_numbers():
    def said(command, rank):
        code = "import numpy; print(hash('a string'), numpy.random.rand())"
        environment = {**os.environ, "RANK": rank}
        return subprocess.run([*command, "-c", code], env=environment, capture_output=True, text=True).stdout.split()

    (even, one), (odd, another), (again, third) = (said(ranks(), rank) for rank in "010")
    assert even == again == said(python(), "1")[0] != odd and len({one, another, third}) == 3
