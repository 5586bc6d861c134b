"""sga_kohya.patch: patches/library.patch without git, put in and taken out, and nothing of another hand touched."""

import shutil
import subprocess
from pathlib import Path

import pytest

from sga_kohya import patch
from sga_kohya.patch import MARK, added, main

PATCH = Path(__file__).parents[1] / "patches" / "library.patch"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("train_network.py", "library/train_util.py", "library/flux_train_utils.py", "library/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


@pytest.fixture
def file(checkout: Path) -> Path:
    return checkout / "library" / "__init__.py"


def test_it_writes_what_git_would_and_takes_it_out_again(checkout, file, capsys):
    if not shutil.which("git"):
        pytest.skip("no git here")
    subprocess.run(["git", "init", "-q"], cwd=checkout, check=True)
    subprocess.run(["git", "apply", str(PATCH)], cwd=checkout, check=True)
    by_git = file.read_bytes()
    file.write_text("")
    assert main([str(checkout)]) == 0 and file.read_bytes() == by_git
    compile(by_git, "patched", "exec")
    assert "--undo" in capsys.readouterr().out
    assert main([str(checkout), "--undo"]) == 0 and file.read_bytes() == b""


def test_a_folder_beside_the_checkout_is_told_where_it_is_and_no_option_that_there_is_not(checkout, capsys):
    assert main([str(checkout / "library")]) == 2
    said = capsys.readouterr().err
    assert f"did you mean {checkout}?" in said and "--sd_scripts" not in said


def test_twice_is_once_both_ways_and_check_tells(checkout, file, capsys):
    assert main([str(checkout), "--check"]) == 1
    for _ in range(2):
        assert main([str(checkout)]) == 0
        assert file.read_text() == added() and main([str(checkout), "--check"]) == 0
    assert "patched already" in capsys.readouterr().out
    for _ in range(2):
        assert main([str(checkout), "--undo"]) == 0
        assert file.read_text() == "" and main([str(checkout), "--check"]) == 1


def test_an_older_version_of_the_patch_is_replaced(checkout, file, capsys):
    file.write_text(f"{MARK}: an old one\npass\n")
    assert main([str(checkout), "--check"]) == 1
    assert main([str(checkout)]) == 0 and file.read_text() == added()
    assert "it was an older version" in capsys.readouterr().out


def test_line_ends_of_windows_and_blank_lines_are_no_work_of_another_hand(checkout, file):
    file.write_bytes(added().replace("\n", "\r\n").encode())
    assert main([str(checkout), "--check"]) == 0
    file.write_bytes(b"\r\n")
    assert main([str(checkout)]) == 0 and file.read_text() == added()


@pytest.mark.parametrize("options", [[], ["--undo"]])
def test_a_file_that_holds_something_else_is_left_alone(checkout, file, options, capsys):
    file.write_text("import mine\n")
    assert main([str(checkout), *options]) == 2
    assert "holds something else here" in capsys.readouterr().err and file.read_text() == "import mine\n"


def test_what_is_no_checkout_or_one_too_old_is_refused(checkout, tmp_path, capsys):
    (checkout / "library" / "flux_train_utils.py").unlink()
    assert main([str(checkout)]) == 2 and "v0.9.1 or older" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere")]) == 2 and "this is no sd-scripts checkout" in capsys.readouterr().err


def test_a_fork_with_a_loop_of_its_own_is_refused_before_anything_is_written(checkout, file, capsys):
    (checkout / "train_network.py").write_text("accelerator.backward(loss)\n")
    assert main([str(checkout)]) == 2 and "a training loop of its own" in capsys.readouterr().err
    assert file.read_text() == ""


def test_every_version_of_the_patch_begins_with_the_mark():
    assert added().startswith(patch.MARK)
