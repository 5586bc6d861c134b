"""patches/library.patch on copies of the checkouts: applied and undone by plain tools, silent until asked for."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from .. import stub_host
from ..forked import python
from .conftest import to_arguments
from .data import LEVELS, write_dataset
from .run import OFFLINE
from .tiny_flux import lora_args

PATCH = Path(__file__).parents[2] / "patches" / "library.patch"
README = PATCH.with_name("README.md")
APPLY = {"git": ["git", "apply", "--ignore-whitespace", str(PATCH)], "patch": ["patch", "-p1", "-i", str(PATCH)]}
UNDO = {
    "git": ["git", "apply", "-R", "--ignore-whitespace", str(PATCH)],
    "patch": ["patch", "-p1", "-R", "-i", str(PATCH)],
}

# What a training script does first and last: import something of the library, then parse its own arguments.
SCRIPT = """
import sys
from library.config_util import add_config_arguments
import argparse, multiprocessing

def in_worker(_):
    return "ours" if hasattr(add_config_arguments, "__wrapped__") else "stock"

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    for name in ("--config_file", "--train_data_dir", "--spawn"):
        parser.add_argument(name)
    args = parser.parse_args()
    print("ours" if hasattr(add_config_arguments, "__wrapped__") else "stock", "sga_kohya" in sys.modules)
    if args.spawn:
        with multiprocessing.get_context(args.spawn).Pool(1) as pool:
            print(*pool.map(in_worker, [0]))
"""


def tool(command: list[str], folder: Path) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} here")
    # git looks upwards for a repository and would ignore a folder inside one that does not track it
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env=environment)


@pytest.fixture
def patched(tmp_path: Path) -> Path:
    root = stub_host.write(tmp_path / "sd-scripts", flux_train_network=SCRIPT, train_controlnet=SCRIPT)
    tool(APPLY["git"], root)
    return root


def run(root: Path, *words: str, script: str = "flux_train_network.py", isolated: bool = False) -> str:
    """stdout of a run by path, or its stderr when it fails. isolated: as in an environment without sga_kohya."""
    environment = {**os.environ, "PYTHONPATH": str(PATCH.parents[1])}
    command = [*python(), str(root / script), *words]
    if isolated:
        (root / "sga_kohya.py").write_text("raise ModuleNotFoundError(\"No module named 'sga_kohya'\")")
    result = subprocess.run(command, cwd=root.parent, capture_output=True, text=True, timeout=60, env=environment)
    return result.stdout.strip() if result.returncode == 0 else f"exit {result.returncode}: {result.stderr}"


@pytest.mark.parametrize("name", ["git", "patch"])
def test_it_applies_to_every_version_and_leaves_no_trace(any_checkout, tmp_path, name):
    (tmp_path / "library").mkdir()
    file = tmp_path / "library" / "__init__.py"
    shutil.copy(any_checkout / "library" / "__init__.py", file)
    tool(APPLY[name], tmp_path)
    assert "from sga_kohya import patched" in file.read_text()
    tool(UNDO[name], tmp_path)
    assert file.read_bytes() == b"" and sorted(tmp_path.rglob("*.*")) == [file]


@pytest.mark.parametrize("crlf", [(), ("file",), ("patch",), ("patch", "file")])
@pytest.mark.parametrize("autocrlf", ["true", "false"])
def test_the_readme_s_commands_work_whatever_git_does_to_line_ends(tmp_path, crlf, autocrlf):
    """patch: a clone that gave it CRLF. file: the applied one with CRLF, as git checks it out again."""
    root, patch = tmp_path / "sd-scripts", tmp_path / "library.patch"
    (root / "library").mkdir(parents=True)
    file = root / "library" / "__init__.py"
    file.touch()
    tool(["git", "init", "-q"], root)
    tool(["git", "config", "core.autocrlf", autocrlf], root)
    patch.write_bytes(with_crlf(PATCH.read_bytes()) if "patch" in crlf else PATCH.read_bytes())
    command = ["git", "apply", "--ignore-whitespace"]
    assert " ".join([*command, "path/to/sga_kohya/patches/library.patch"]) in README.read_text(encoding="utf-8")
    tool([*command, str(patch)], root)
    assert "from sga_kohya import patched" in file.read_text(encoding="utf-8")
    file.write_bytes(with_crlf(file.read_bytes()) if "file" in crlf else file.read_bytes())
    compile(file.read_bytes(), "library", "exec")
    tool([*command, "-R", str(patch)], root)
    assert file.read_bytes() == b""


def test_a_clone_on_windows_leaves_the_patch_its_line_ends():
    answer = subprocess.run(["git", "check-attr", "text", str(PATCH)], cwd=PATCH.parent, capture_output=True, text=True)
    if answer.returncode != 0:
        pytest.skip("no clone")
    assert answer.stdout.endswith("text: unset\n")


def with_crlf(text: bytes) -> bytes:
    return text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def test_who_does_not_ask_gets_stock_and_sga_kohya_is_not_even_imported(patched, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text("[a]\nsga_tuples = true\nseed = 1\n")
    assert run(patched) == "stock False"
    assert run(patched, "--config_file", str(config)) == "stock False"
    config.write_text("sga = false\n")
    assert run(patched, f"--config_file={config}") == "stock False"
    assert run(patched, "--config_file=run", isolated=True) == "stock False"


def test_the_word_or_the_toml_asks(patched, tmp_path):
    told, ran = run(patched, "--sga=false").split("\n")
    assert told == "sga_kohya: without --sga this is stock sd-scripts, whatever --sga=false says" and ran == "ours True"
    assert run(patched, "--sga").startswith("exit 2: sga_kohya: error: no training data: give --dataset_config")
    for line in ("sga = true", '  sga="true"', "[x]\nsga = true"):
        (tmp_path / "run.toml").write_text(line)
        for words in (["--config_file", "run.toml"], ["--config_file=run"]):
            assert run(patched, *words).startswith("exit 2: sga_kohya: error: no training data")
    assert run(patched, "--config_file=run", "--sga=false").endswith("ours True")
    assert run(patched, "--config=run").startswith("exit 2: sga_kohya: error: no training data")
    assert "did you mean sga_tuples" in run(patched, "--sga", "--sga_tuple=false")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('"sga" = true', "exit 2: sga_kohya: error: no training data"),
        ("\ufeffsga = true", "exit 2: sga_kohya: error: --config_file run: it begins with a byte order mark"),
        ("\ufeffseed = 1\nsga = true", "exit 2: sga_kohya: error: --config_file run: it begins with a byte order mark"),
        ("SGA = true", "exit 2: sga_kohya: error: unknown option SGA: did you mean sga?"),
        ("[sga]\nenabled = true", "exit 2: sga_kohya: error: unknown option sga.enabled: did you mean sga"),
        ("sga.enabled = true", "exit 2: sga_kohya: error: unknown option sga.enabled: did you mean sga"),
        ("[network.sga]\ntuples = true", "exit 2: sga_kohya: error: sga = {'tuples': True}: write true or false"),
        ("[sga]\nsga_tuples = true", "sga_kohya: without --sga this is stock sd-scripts, whatever sga_tuples says"),
        ("\ufeffseed = 1\n# sga = true", "stock False"),
        ('comment = "sga = true"', "stock False"),
    ],
)
def test_no_way_to_ask_is_passed_over_in_silence(patched, tmp_path, text, answer):
    (tmp_path / "run.toml").write_text(text, encoding="utf-8")
    assert run(patched, "--config_file=run").startswith(answer)


def test_what_cannot_be_is_one_clear_error(patched):
    message = run(patched, "--sga", script="train_controlnet.py")
    assert "error: SGA has no seams into train_controlnet.py: leave out --sga for it" in message
    assert run(patched, script="train_controlnet.py") == "stock False"
    message = run(patched, "--sga", isolated=True)
    assert "exit 1: sga_kohya: error: SGA is asked for, but" in message and "pip install -e" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(("method", "library"), [("spawn", "stock"), ("fork", "ours")])
def test_data_loader_workers_start(patched, method, library):
    """A spawned worker runs the script's imports again: it gets the stock library, and prints nothing."""
    assert run(patched, "--sga=false", "--spawn", method).split("\n")[1:] == ["ours True", library]


def test_a_run_by_path_equals_the_door_bit_for_bit(run_host, tiny_models, checkout, tmp_path):
    dataset = write_dataset(tmp_path / "data", [LEVELS] * 2 + [("macro", "micro")])
    options = {"max_train_steps": 3, "max_data_loader_n_workers": 1}
    run_host("flux_train_network.py", "sga", lora_args(tiny_models, dataset, tmp_path / "door", **options))

    root = tmp_path / "sd-scripts"
    shutil.copytree(checkout, root, ignore=shutil.ignore_patterns(".git", "docs", "images", "tests"))
    tool(APPLY["git"], root)
    script = root / "flux_train_network.py"
    head, main, tail = script.read_text().partition('if __name__ == "__main__":')
    tiny = f"import sys, torch; sys.path.append({str(Path(__file__).parent)!r}); import run\n"
    tiny += "run.load_stack('flux_train_network.py').shrink_host()\n"
    tiny += "torch.set_num_threads(1); torch.use_deterministic_algorithms(True, warn_only=True)\n"
    script.write_text(head + tiny + main + tail)
    words = to_arguments(lora_args(tiny_models, dataset, tmp_path / "path", **options))
    command = [*python(), "flux_train_network.py", "--sga", *words]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, env={**os.environ, **OFFLINE})
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("SGA tuple plan") == 1
    door, path = (load_file(tmp_path / name / "tiny.safetensors") for name in ("door", "path"))
    assert door.keys() == path.keys() and all(torch.equal(door[key], path[key]) for key in door)
