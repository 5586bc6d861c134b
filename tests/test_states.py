"""States that are damaged, missing, or of data that have changed since: one sentence, and which state is whole."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.hosts.sd_scripts.checks import problems
from sga_kohya.tuples import contents, states
from sga_kohya.tuples.contents import Sample, changes, sample_of

from .test_tuple_accelerator import parts, train  # noqa: F401  # a fixture

KINDS = ["model.safetensors", "optimizer.bin", "random_states_0.pkl", "sga_cursor.json"]


@pytest.fixture
def saved(parts, tmp_path):  # noqa: F811
    """(accelerator, folder of its states): of steps 1 and 2, of an epoch, the last, and one of another run."""
    accelerator, dataset, *rest = parts(groups=13)
    dataset.contents = lambda: {"1_macro/a.png": Sample(5, 7, "x")}
    train(accelerator, *rest)
    for step, name in enumerate(("run-step00000001", "run-step00000002", "run-000001", "run", "other")):
        accelerator.cursor.step = step + 1
        accelerator.save_state(tmp_path / f"{name}-state")
    return accelerator, tmp_path


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_a_file_that_is_cut_off_is_named_with_the_newest_whole_state(saved, name, empty):
    accelerator, folder = saved
    state = folder / "run-state"
    assert states.problem(state) is None
    cut(state / name) if not empty else (state / name).write_bytes(b"")
    cut(folder / "run-000001-state" / name)  # the next to last is damaged as well; one of another run is no help
    told = (
        f"{state}: {name} in it is damaged; the newest whole state of that run is {folder / 'run-step00000002-state'}"
    )
    assert states.problem(state) == told
    options = {"resume": str(state), "train_data_dir": str(folder)}
    assert list(problems(options, SgaConfig())) == [f"--resume {told}"]
    assert not any(problems(options | {"resume_from_huggingface": True}, SgaConfig()))


def test_a_state_that_is_missing_or_incomplete(saved):
    _, folder = saved
    shutil.rmtree(folder / "run-state")
    assert f"there is no such folder; the newest whole state of that run is {folder / 'run-000001-state'}" in (
        states.problem(folder / "run-state") or ""
    )
    (folder / "run-000001-state" / "optimizer.bin").unlink()
    assert "the optimizer is missing in it; the newest" in (states.problem(folder / "run-000001-state") or "")
    assert "this is a file: name the folder" in (states.problem(folder / "other-state" / "optimizer.bin") or "")
    lonely = states.problem(folder / "new" / "run-state") or ""
    assert "there is no such folder; there is no other whole state" in lonely and lonely.endswith("to begin anew")
    # a kill between the two renames of a replaced folder
    (folder / "run-step00000001-state").rename(folder / "run-step00000001-state.old")
    assert states.problem(folder / "run-step00000001-state") is None


def test_what_only_loading_finds_is_one_sentence_as_well(saved):
    """Bytes that are wrong in the midst of a file, and a state of another model."""
    accelerator, folder = saved
    file = folder / "run-state" / "optimizer.bin"
    content = bytearray(file.read_bytes())
    content[: len(content) // 3] = b"x" * (len(content) // 3)
    file.write_bytes(content)
    assert states.problem(folder / "run-state") is None
    with pytest.raises(SgaError, match=r"run-state cannot be loaded \(.*the newest whole state .* is .*000001-"):
        accelerator.load_state(folder / "run-state")
    cut(folder / "run-000001-state" / "model.safetensors")
    with pytest.raises(SgaError, match="000001-state: model.safetensors in it is damaged; the newest whole state"):
        accelerator.load_state(str(folder / "run-000001-state"))


def test_data_that_changed_are_said_and_training_goes_on(saved, capsys):
    accelerator, folder = saved
    accelerator.load_state(folder / "run-state")
    assert "have changed" not in capsys.readouterr().out
    changed = {"1_macro/a.png": Sample(6, 7, "y"), "1_micro/b.png": Sample(1, 1, "z")}
    accelerator.progress._dataset.contents = lambda: changed
    accelerator.load_state(folder / "run-state")
    assert (
        "warning: the data have changed since run-state was saved: 1 image is new (1_micro/b.png); "
        "1 image is edited (1_macro/a.png); 1 image is of another caption (1_macro/a.png)"
    ) in capsys.readouterr().out
    assert accelerator.resumes and accelerator.cursor.step == 4
    (folder / "other-state" / contents.FILE).unlink()  # of a version that did not keep them
    accelerator.load_state(folder / "other-state")
    assert "have changed" not in capsys.readouterr().out


def test_what_changed_in_words(tmp_path):
    def look() -> dict[str, Sample]:
        return dict(sample_of(path, path.with_suffix(".txt").read_text()) for path in sorted(tmp_path.rglob("*.png")))

    folder = tmp_path / "1_macro"
    folder.mkdir()
    for name in "abcdefgh":
        (folder / f"{name}.png").write_bytes(name.encode())
        (folder / f"{name}.txt").write_text(name)
        os.utime(folder / f"{name}.png", (1000, 1000))
    before = json.loads(json.dumps(look()))
    before = {name: Sample(*sample) for name, sample in before.items()}
    assert changes(before, look()) == []
    (folder / "a.png").write_bytes(b"longer")
    (folder / "b.png").write_bytes(b"B")  # of equal size, and of another date
    (folder / "c.txt").write_text("another")
    (folder / "d.png").rename(folder / "z.png")
    (folder / "d.txt").rename(folder / "z.txt")
    assert changes(before, look()) == [
        "1 image is new (1_macro/z.png)",
        "1 image is gone (1_macro/d.png)",
        "2 images are edited (1_macro/a.png, 1_macro/b.png)",
        "1 image is of another caption (1_macro/c.png)",
    ]
    for path in folder.glob("*.png"):
        os.utime(path, (2000, 2000))  # as after a copy: dates tell nothing then, sizes do
    assert changes(before, look())[2:] == ["1 image is edited (1_macro/a.png)"] + changes(before, look())[3:]
    many = {f"{number}.png": Sample(1, 1, "") for number in range(5)}
    assert changes({}, many) == ["5 images are new (0.png, 1.png, 2.png and 2 more)"]


def test_states_are_examined_without_torch():
    code = "import sys, sga_kohya.tuples.states, sga_kohya.tuples.contents; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
