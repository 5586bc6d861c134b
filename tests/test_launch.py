"""The doors as a user meets them: errors at once, in one line, and the generic door behind a GUI's arguments."""

import subprocess
import sys
from pathlib import Path

import pytest

import sga_kohya
from sga_kohya import SgaError, launch
from sga_kohya.__main__ import COMMANDS

from . import stub_host
from .forked import python

SCRIPT = "import sys; from library.config_util import add_config_arguments as f; print(f.__module__, sys.argv[1:])"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return stub_host.write(tmp_path / "sd-scripts", flux_train_network=SCRIPT, flux_train=SCRIPT)


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    (tmp_path / "photos").mkdir()
    return [f"--train_data_dir={tmp_path / 'photos'}"]


def door(module: str, *argv: str) -> subprocess.CompletedProcess:
    command = [*python(), "-m", f"sga_kohya.{module}", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def console(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "sga_kohya", *words], capture_output=True, text=True)


def error(module: str, *argv: str) -> str:
    result = door(module, *argv)
    assert result.returncode == 2
    assert result.stderr.startswith("sga_kohya: error: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def test_the_script_runs_with_our_seams_and_its_own_arguments(checkout, data):
    result = door("flux_train_network", f"--sd_scripts={checkout}", *data, "--seed", "1")
    assert result.returncode == 0, result.stderr
    assert "'--seed', '1'" in result.stdout


def test_without_data_there_is_one_clear_error(checkout, tmp_path):
    here = f"--sd_scripts={checkout}"
    assert "no training data: give --dataset_config" in error("flux_train_network", here)
    assert "nope.toml does not exist" in error("flux_train_network", here, "--dataset_config=nope.toml")
    assert "--train_data_dir nope: " in error("flux_train_network", here, "--train_data_dir=nope")
    dataset = tmp_path / "d.toml"
    dataset.write_text('[[datasets]]\n[[datasets.subsets]]\nimage_dir = "/nowhere/1_macro"\n')
    assert "image_dir /nowhere/1_macro" in error("flux_train_network", here, f"--dataset_config={dataset}")
    dataset.write_text("[datasets]\nresolution = 512\n")
    assert "write [[datasets]] with two brackets" in error("flux_train_network", here, f"--dataset_config={dataset}")
    dataset.write_text('\ufeff[general]\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = "."\n', encoding="utf-8")
    assert "byte order mark (BOM)" in error("flux_train_network", here, f"--dataset_config={dataset}")
    assert "byte order mark (BOM)" in error("flux_train_network", here, f"--config_file={dataset}")
    for text in ("", "[general]\nresolution = 512\n", "datasets = []\n"):
        dataset.write_text(text)
        assert "no [[datasets]] in it: write [[data" in error("flux_train_network", here, f"--dataset_config={dataset}")
    dataset.write_text("[[datasets]]\nresolution = 512\n")
    assert "no [[datasets.subsets]] in it" in error("flux_train_network", here, f"--dataset_config={dataset}")
    dataset.write_text("datasets = [1]\n")
    assert "datasets is no list of tables" in error("flux_train_network", here, f"--dataset_config={dataset}")
    dataset.write_text('[[datasets]]\nimage_directory = "photos"\n')
    said = error("flux_train_network", here, f"--dataset_config={dataset}")
    assert "this describes data for musubi-tuner (image_directory is in it)" in said
    dataset.write_text("= broken")
    assert "not valid TOML" in error("flux_train_network", here, f"--dataset_config={dataset}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sga_tuples=perhaps"], "sga_tuples = 'perhaps': write true or false"),
        (["--sga_tuple=false"], "did you mean sga_tuples"),
        (["--fused_backward_pass"], "--fused_backward_pass excludes tuples: it steps the optimizer inside backward"),
        (["--blockwise_fused_optimizers"], "excludes tuples"),
        (["--skip_until_initial_step"], "break tuple steps apart"),
        (["--fp8_base", "--network_args", "algo=lora", "dora_wd=True"], "fp8_base excludes LyCORIS DoRA"),
        (["--fp8_base_unet", "--network_args", "dora_wd=yes"], "fp8_base excludes LyCORIS DoRA"),
        (
            ["--fp8_base", "--network_module=lycoris.kohya", "--network_args", "algo=loha", "dora_wd=False"],
            "fp8_base excludes LyCORIS without bypass_mode",
        ),
        (["--sd_scripts=/nowhere"], "--sd_scripts /nowhere: this is no sd-scripts checkout"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(checkout, data, options, message):
    assert message in error("flux_train_network", f"--sd_scripts={checkout}", *data, *options)


def test_the_host_s_own_errors_stay_tracebacks(tmp_path, data):
    """Also those that would be a user's if they were ours: a worker's OSError in one line tells nobody anything."""
    checkout = stub_host.write(tmp_path / "host", flux_train_network="open('/nowhere/x')")
    result = door("flux_train_network", f"--sd_scripts={checkout}", *data)
    assert result.returncode == 1 and "Traceback" in result.stderr and "FileNotFoundError" in result.stderr


def test_ctrl_c_ends_in_one_line(tmp_path, data):
    checkout = stub_host.write(tmp_path / "host", flux_train_network="raise KeyboardInterrupt")
    result = door("flux_train_network", f"--sd_scripts={checkout}", *data)
    assert result.returncode == 130 and result.stderr.strip().count("\n") == 0 and "--resume" in result.stderr


@pytest.mark.parametrize("off", ["--sga_tuples=false", "--sga=false"])
def test_what_excludes_tuples_is_allowed_without_them(checkout, data, off):
    assert launch_checks(["--fused_backward_pass", off, *data]) is None
    assert launch_checks(["--fused_backward_pass=false", *data]) is None


@pytest.mark.parametrize(
    ("processes", "options", "refused"),
    [
        ("2", [], True),
        ("2", ["--sga_tuples=false", "--sga_modulation=false", "--sga_probe_every=5"], True),
        ("2", ["--sga_tuples=false"], False),
        ("2", ["--network_module=networks.lora"], False),  # DDP's forward pass does not run there
        ("1", [], False),
    ],
)
def test_a_static_graph_is_refused_where_sub_batches_would_break_it(data, monkeypatch, processes, options, refused):
    monkeypatch.setenv("WORLD_SIZE", processes)
    words = ["--ddp_static_graph", *data, *options]
    if refused:
        with pytest.raises(SgaError, match="--ddp_static_graph excludes .* Leave it out .* or"):
            launch_checks(words)
    else:
        launch_checks(words)


def test_two_tomls_in_each_other_s_place_are_told_so(data, tmp_path):
    dataset, training = tmp_path / "dataset.toml", tmp_path / "training.toml"
    dataset.write_text('[general]\nenable_bucket = true\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = "x"\n')
    training.write_text('[model]\npretrained_model_name_or_path = "flux"\n')
    for words in ([], [f"--dataset_config={training}"]):
        with pytest.raises(SgaError, match=r"dataset.toml: this describes a dataset .* give it as --dataset_config"):
            launch_checks([f"--config_file={dataset}", *words])
    with pytest.raises(SgaError, match=r"these are the settings of a training \(pretrained_model_name_or_path is in"):
        launch_checks([f"--config_file={training}", f"--dataset_config={training}"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [("d.json", "{", "not valid JSON"), ("d.json", "{}", r"no \[\[datasets"), ("d.yaml", "", "reads .toml and .json")],
)
def test_datasets_in_other_formats_are_examined_as_well(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(SgaError, match=message):
        launch_checks([f"--dataset_config={tmp_path / name}"])


def launch_checks(argv: list[str]) -> None:
    from sga_kohya.config import SgaConfig
    from sga_kohya.hosts.sd_scripts.checks import check
    from sga_kohya.options import read_options

    options = read_options(argv)
    check(options, SgaConfig.from_options(options))


def test_the_full_fine_tune_door_hands_over_an_adapter(checkout, data, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text('[network]\nnetwork_module = "lycoris.kohya"\n')
    result = door("flux_train", f"--sd_scripts={checkout}", *data, f"--config_file={config}")
    assert "network_module is set, so this runs flux_train_network.py instead of flux_train.py" in result.stdout
    assert "instead" not in door("flux_train", f"--sd_scripts={checkout}", *data).stdout


def test_every_full_fine_tune_door_hands_over_to_the_network_trainer_of_its_family(checkout, data):
    for script, trainer in launch.SCRIPTS.items():
        if trainer is not None:
            assert launch.SCRIPTS[trainer] is None and trainer.endswith("train_network.py")
            family = script.split("train")[0]
            assert trainer.split("train")[0] == ("" if script == "fine_tune.py" else family)
    result = door("fine_tune", f"--sd_scripts={checkout}", *data, "--network_module=networks.lora")
    assert "this runs train_network.py instead of fine_tune.py" in result.stdout and result.returncode == 0


def test_a_version_without_the_script_is_named(checkout, data):
    assert f"{checkout} has no anima_train.py" in error("anima_train", f"--sd_scripts={checkout}", *data)


def test_the_generic_door_skips_a_gui_s_own_arguments(checkout, data):
    """kohya_ss: its field of extra accelerate arguments ends up before the script's path."""
    flags = ["--dynamo_backend", "no", "--num_processes", "1", "--mixed_precision", "bf16"]
    result = door("launch", *flags, str(checkout / "flux_train_network.py"), *data)
    assert result.returncode == 0, result.stderr
    told, ran = result.stdout.strip().split("\n")
    assert "accelerate did not see '--dynamo_backend no --num_processes 1 --mixed_precision bf16'" in told
    assert "num_processes" not in ran and "--train_data_dir" in ran


@pytest.mark.parametrize("flags", [["--multi_gpu"], ["--num_processes", "2"], ["--gpu_ids", "1"]])
def test_a_gui_s_choice_of_devices_is_not_lost_in_silence(checkout, data, flags):
    assert "accelerate did not see" in error("launch", *flags, str(checkout / "flux_train_network.py"), *data)


def test_the_generic_door_wants_a_script_it_knows():
    told = error("launch", "--seed", "1")
    assert "name the script to run, one of flux_train_network.py, flux_train.py" in told and "; got '--seed 1'" in told
    assert "got" not in error("launch")


def test_a_script_without_a_door_is_told_so():
    told = error("launch", "--num_processes", "1", "sd-scripts/train_controlnet.py", "--config_file=x.toml")
    assert "there is no door for train_controlnet.py: SGA has no seams into it. Doors are flux_train_n" in told
    assert "Did you mean flux_train_network.py? Doors are" in error("launch", "flux_train_networks.py")


def test_a_config_to_be_written_is_not_read(checkout, tmp_path):
    new = tmp_path / "new.toml"
    result = door("flux_train_network", f"--sd_scripts={checkout}", "--output_config", f"--config_file={new}")
    assert result.returncode == 0, result.stderr


def test_help_asks_for_no_data(checkout):
    assert door("flux_train_network", f"--sd_scripts={checkout}", "--help").returncode == 0


def test_every_door_names_a_script_and_every_script_has_a_door():
    folder = Path(launch.__file__).with_name("doors")
    doors = {p.name for p in folder.glob("*.py") if "from sga_kohya.launch import run" in p.read_text()}
    assert doors == set(launch.SCRIPTS)


def test_the_console_command_lists_what_there_is():
    for words in ([], ["-h"], ["--help"]):
        result = console(*words)
        assert result.returncode == 0 and result.stderr == ""
        assert all(f"  {command}" in result.stdout for command in COMMANDS)


def test_the_console_command_knows_its_version():
    result = console("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"sga-kohya {sga_kohya.__version__}\n", "")


@pytest.mark.parametrize(
    ("word", "answer"), [("hsdd", "did you mean hsd?"), ("xyz", "known are anima_train,"), ("--versions", "known are")]
)
def test_a_word_that_is_no_command_is_answered_in_one_line_on_stderr(word, answer):
    result = console(word)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith(f"sga-kohya: error: there is no command {word!r}: {answer}")


@pytest.mark.parametrize("name", ["hsd", "presets", "patch", "partition", "evaluate"])
def test_the_usage_is_what_one_can_type_and_errors_begin_alike(name):
    result = console(name)
    assert result.returncode == 2 and result.stderr.startswith(f"usage: python -m sga_kohya.{name} ")
    assert result.stderr.strip().splitlines()[-1].startswith(f"sga_kohya.{name}: error: ")


def test_the_list_of_commands_is_that_of_what_can_be_run():
    package = Path(sga_kohya.__file__).parent
    rooms = {path.parent.name for path in package.glob("*/__main__.py")}
    doors = {path.stem for path in (package / "doors").glob("[!_]*.py")}
    files = {path.stem for path in package.glob("[!_]*.py") if '__name__ == "__main__"' in path.read_text()}
    assert set(COMMANDS) == rooms | doors | files
