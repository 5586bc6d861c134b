"""Every command on the consoles and pipes of Windows, which lack most characters: it ends the same."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from sga_kohya.__main__ import COMMANDS
from sga_kohya.errors import SgaError
from sga_kohya.hosts.sd_scripts.families import SCRIPTS
from sga_kohya.kit.cli import can_show, run_command, shell_word

from . import stub_host

NAME = "фото 写真 é"
"""No encoding but Unicode's has all of it."""

ENCODINGS = ("cp932", "cp1252", "ascii")
# One process imports what the commands need of PyPI, which takes seconds, and forks for each encoding, in which ours is
# imported. Each command finds the streams as Python opens them by PYTHONIOENCODING: a character that they lack is an
# error. So is every text file that we open without its encoding.
ASK = """
import importlib, json, os, runpy, sys, traceback, warnings

def ask(questions):
    for name, *words in questions:
        sys.stdout.reconfigure(errors="strict")
        sys.argv = [name, *words]
        try:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
            yield 0
        except SystemExit as end:
            yield end.code or 0
        except BaseException:
            traceback.print_exc()
            yield -1
        print(f"=== {name}", flush=True)

for name in ("torch", "accelerate", "cv2", "diffusers.pipelines.pipeline_utils", "lycoris"):
    importlib.import_module(name)
assert "sga_kohya" not in sys.modules
questions = json.load(open("questions.json", encoding="ascii"))
for encoding in sys.argv[1:]:
    if child := os.fork():
        os.waitpid(child, 0)
        continue
    for stream, errors in ((sys.stdin, "strict"), (sys.stdout, "strict"), (sys.stderr, "backslashreplace")):
        stream.reconfigure(encoding=encoding, errors=errors)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(f"{encoding}.{stream.name}", os.O_WRONLY | os.O_CREAT), stream.fileno())
    os.environ["PYTHONIOENCODING"] = encoding
    warnings.filterwarnings("error", category=EncodingWarning, module=r"sga_kohya|__main__")
    json.dump(list(ask(questions)), open(f"{encoding}.json", "w", encoding="ascii"))
    break
"""


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> list[tuple[list[str], int]]:
    """Words, and how they end."""
    folder = tmp_path_factory.mktemp("x") / NAME
    host = stub_host.write(folder / "sd-scripts", flux_train_network=f"print({NAME!r})")
    for i in range(3):
        (folder / "photos").mkdir(exist_ok=True)
        Image.radial_gradient("L").resize((300 + i, 300)).save(folder / "photos" / f"{NAME} {i}.png")
        (folder / "photos" / f"{NAME} {i}.txt").write_text(f"{NAME} {i}", encoding="utf-8")
    broken = folder / "broken.toml"
    broken.write_text(f"a = '{NAME}", encoding="utf-8")
    here, photos, lost = f"--sd_scripts={host}", str(folder / "photos"), str(folder / "lost.toml")
    asked = [
        (["launch", str(host / "flux_train_network.py"), f"--train_data_dir={photos}"], 0),
        (["flux_train_network", here, f"--train_data_dir={photos}"], 0),
        (["flux_train_network", here, f"--config_file={broken}"], 2),
        (["launch", NAME], 2),
        (["doctor", str(broken)], 1),
        (["doctor", here, "--script=flux_train_network", f"--train_data_dir={folder / 'none'}"], 1),
        (["presets", "list"], 0),
        (["presets", "copy", "flux_dora", str(folder / "copied"), "--force"], 0),
        (["presets", "show", NAME], 2),
        (["partition", photos, str(folder / "parts"), "--by", "random", "--labels", "a,b"], 0),
        (["partition", lost, str(folder / "parts"), "--by", "random"], 2),
        (["hsd", photos, str(folder / "slices")], 0),
        (["hsd", photos, str(folder / "slices"), "--config", str(broken)], 2),
        (["evaluate", "report", str(broken)], 2),
        (["evaluate", "checkpoints", str(folder)], 2),
        (["interference", str(broken), "--weights", lost], 2),
        (["spherical", "probe", lost, photos, str(folder / "probe")], 2),
        (["reference", "--dataset_config", str(broken), "--out", str(folder / "run"), "--steps", "1"], 2),
        (["demo", "--out", photos], 2),
        *(([name, "--help"], 0) for name in COMMANDS if f"{name}.py" not in SCRIPTS),
        (["flux_train_network", here, "--help"], 0),
    ]
    return [([f"sga_kohya.{name}", *words], end) for (name, *words), end in asked]


@pytest.fixture(scope="module")
def answers(questions, tmp_path_factory) -> Path:
    """A folder with, of each encoding, how the commands ended and what they wrote to each stream."""
    folder = tmp_path_factory.mktemp("consoles")
    (folder / "questions.json").write_text(json.dumps([words for words, _ in questions]), encoding="ascii")
    # C.UTF-8: as on Windows, names of files are Unicode whatever the console is.
    environment = {**os.environ, "PYTHONUTF8": "0", "LC_ALL": "C.UTF-8"}
    command = [sys.executable, "-X", "warn_default_encoding", "-c", ASK, *ENCODINGS]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_command_says_the_same_on_a_legacy_console(questions, answers, encoding):
    errors, ended = (answers / f"{encoding}.<stderr>").read_text(encoding=encoding), answers / f"{encoding}.json"
    assert ended.is_file(), errors[-3000:]
    ends = json.loads(ended.read_text(encoding="ascii"))
    wrong = [(words, end, got) for (words, end), got in zip(questions, ends, strict=True) if end != got]
    assert not wrong, (wrong, errors[-3000:])
    said = (answers / f"{encoding}.<stdout>").read_text(encoding=encoding)  # whole, in that encoding
    assert "\\u" in said or "\\x" in said, "what the console lacks is escaped"


def test_the_console_command_lists_what_there_is_on_every_console():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    command = [sys.executable, "-m", "sga_kohya", NAME]
    assert subprocess.run(command, capture_output=True, env=environment).returncode == 2


def test_every_command_ends_through_the_kit():
    """So that exit status, the name before an error and the streams are the same everywhere."""
    package = Path(__file__).parents[1] / "sga_kohya"
    mains = [
        package / "presets.py",
        package / "patch.py",
        package / "hosts" / "door.py",
        *package.glob("*/__main__.py"),
    ]
    assert [path.parent.name for path in mains if "run_command(" not in path.read_text(encoding="utf-8")] == []
    others = set(package.rglob("*.py")) - {package / "kit" / "cli.py"}
    assert [path.name for path in others if ".reconfigure(" in path.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize(
    ("raised", "status"), [(None, 0), (SgaError("x"), 2), (OSError(28, "full"), 2), (KeyboardInterrupt(), 130)]
)
def test_how_commands_end(raised, status, capsys):
    def body() -> None:
        if raised:
            raise raised

    assert run_command("sga_kohya.x", body) == status
    assert capsys.readouterr().err.strip().startswith("sga_kohya.x: " if raised else "")


def test_what_a_console_can_show(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="cp932"))
    assert can_show("写真") and not can_show("▁▂▃")
    monkeypatch.setattr(sys, "__stdout__", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert can_show("▁▂▃"), "what is kept in memory is shown later"


def test_words_to_copy_fit_the_shell_of_the_system():
    assert shell_word("C:\\my photos\\a.toml", windows=True) == '"C:\\my photos\\a.toml"'
    assert shell_word("C:\\photos\\a.toml", windows=True) == "C:\\photos\\a.toml"
    assert shell_word("/my photos/a.toml", windows=False) == "'/my photos/a.toml'"
