"""The door to musubi-tuner: what is wrong in words and files is said in one line, before anything is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from sga_kohya import SgaConfig
from sga_kohya.hosts.musubi.checks import problems
from sga_kohya.hosts.musubi.families import REFUSED, SCRIPTS
from sga_kohya.hosts.musubi.run import main

FLUX_2 = "flux_2_train_network"


@pytest.fixture
def tuner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a checkout; nothing in it can be imported."""
    package = tmp_path / "musubi" / "src" / "musubi_tuner"
    (package / "dataset").mkdir(parents=True)
    for name in ("hv_train_network", FLUX_2):
        (package / f"{name}.py").write_text("raise AssertionError('imported')")
    (package / "dataset" / "config_utils.py").write_text("shared_epoch")
    monkeypatch.setenv("MUSUBI_TUNER_DIR", str(tmp_path / "musubi"))
    return tmp_path / "musubi"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    file = tmp_path / "dataset_musubi.toml"
    file.write_text('[[datasets]]\nimage_directory = "x"\n')
    return file


def said(capsys, *words: object) -> str:
    with pytest.raises(SystemExit) as end:
        main([*map(str, words)])
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("sga_kohya.musubi: error: ") and line.count("\n") == 1
    return line


@pytest.mark.parametrize("script", REFUSED)
def test_what_cannot_be_trained_is_refused_with_its_reason(capsys, script):
    assert REFUSED[script] in said(capsys, script)


def test_a_script_may_be_named_by_its_path_and_misspelt_ones_are_guessed(tuner, capsys):
    assert "no --dataset_config" in said(capsys, f"src/musubi_tuner/{FLUX_2}.py")
    assert f"did you mean {FLUX_2}?" in said(capsys, "flux2_train_network")


def test_a_checkout_that_is_none_too_old_or_without_the_script_is_said(tuner, tmp_path, capsys, monkeypatch):
    assert "--musubi_tuner nowhere: this is no checkout" in said(capsys, FLUX_2, "--musubi_tuner", "nowhere")
    assert "has no zimage_train.py; Z-Image needs a newer one" in said(capsys, "zimage_train")
    (tuner / "src" / "musubi_tuner" / "dataset" / "config_utils.py").write_text("")
    assert "older than v0.2.13" in said(capsys, FLUX_2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sga_path", "shell"], "sga_path=shell is for sd-scripts"),
        (["--sga_flow_snr_weight"], "musubi-tuner averages its loss"),
        (["--fused_backward_pass"], "--fused_backward_pass excludes tuples"),
        (["--sga_tuplez"], "did you mean sga_tuples?"),
        (["--config_file", "nowhere.toml"], "does not exist"),
        (["--dit", "nowhere.safetensors"], f"--dit nowhere.safetensors: {Path.cwd()}"),
        ([], f"--dit is not set, and {FLUX_2} cannot start without it"),
        (["--dit", "."], "no attention is chosen"),
        (["--dit", ".", "--sdpa"], "set network_module = networks.lora_flux_2, or lycoris.kohya"),
        (
            ["--dit", ".", "--sdpa", "--network_module", "x", "--resume", "nowhere"],
            "--resume nowhere: there is no such",
        ),
        (["--fp8_base", "--network_args", "dora_wd=True"], "fp8_base excludes LyCORIS DoRA"),
    ],
)
def test_options_that_cannot_work_are_refused(tuner, dataset, capsys, words, message):
    assert message in said(capsys, FLUX_2, "--dataset_config", dataset, *words)


def test_a_script_with_an_attention_of_its_own_is_not_asked_for_one(dataset):
    """The commands of musubi-tuner's docs/hidream_o1.md name none for the full fine-tune, and train."""
    options = {"dit": str(dataset), "dataset_config": str(dataset)}
    assert list(problems("hidream_o1_train", options, SgaConfig())) == []
    assert "no attention is chosen" in " ".join(problems("zimage_train", options, SgaConfig()))


def test_texts_with_a_mark_or_in_another_encoding_are_said_to_stop_musubi_tuner(tuner, dataset, tmp_path, capsys):
    config, prompts = tmp_path / "my.toml", tmp_path / "prompts.txt"
    config.write_text("seed = 1\n", encoding="utf-8-sig")
    assert "with which musubi-tuner loses the first key" in said(capsys, FLUX_2, "--config_file", config)
    prompts.write_bytes("déjà vu".encode("cp1252"))
    words = ("--dataset_config", dataset, "--sample_prompts", prompts)
    assert "not UTF-8, which stops musubi-tuner" in said(capsys, FLUX_2, *words)
    dataset.write_text(dataset.read_text(), encoding="utf-8-sig")
    assert "with which musubi-tuner loses the first key" in said(capsys, FLUX_2, *words[:2])


def test_ctrl_c_is_one_line_that_says_how_to_go_on(tuner, dataset, capsys, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sga_kohya.hosts.musubi.run._run", interrupt)
    words = ("--dit", dataset, "--sdpa", "--network_module", "x", "--dataset_config", dataset)
    with pytest.raises(SystemExit) as end:
        main([FLUX_2, *map(str, words)])
    assert end.value.code == 130 and "--resume FOLDER goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[datasets]]\n[[datasets.subsets]]\n", "this is a dataset TOML of sd-scripts"),
        ("[general]\n", "it has no [[datasets]]"),
        ("[[datasets]\n", "not valid TOML"),
        (None, "does not exist"),
    ],
)
def test_a_dataset_toml_that_musubi_tuner_cannot_read_is_said_with_what_writes_one(
    tuner, dataset, capsys, text, message
):
    dataset.unlink() if text is None else dataset.write_text(text)
    assert message in said(capsys, FLUX_2, "--dataset_config", dataset)


@pytest.mark.parametrize(
    ("suffix", "line"), [("toml", '[[datasets]]\n{} = "v"'), ("json", '{{"datasets": [{{"{}": "v"}}]}}')]
)
@pytest.mark.parametrize("key", ["video_directory", "video_jsonl_file"])
def test_clips_for_a_family_of_images_are_refused_before_anything_is_cached(tuner, tmp_path, capsys, suffix, line, key):
    file = tmp_path / f"data.{suffix}"
    file.write_text(line.format(key))
    found = said(capsys, FLUX_2, "--dataset_config", file)
    assert "v holds clips, and FLUX.2 trains on images alone" in found and "one of wan_train_network, hv_" in found
    (tuner / "src" / "musubi_tuner" / "wan_train_network.py").touch()
    assert "--dit is not set" in said(capsys, "wan_train_network", "--dataset_config", file)


def test_a_json_that_describes_no_data_is_said(tuner, tmp_path, capsys):
    file = tmp_path / "data.json"
    for text, message in (("{", "musubi-tuner cannot read it as JSON"), ("[]", "it has no [[datasets]]")):
        file.write_text(text)
        assert message in said(capsys, FLUX_2, "--dataset_config", file)


def test_the_usage_names_every_script_and_no_torch_is_imported_for_an_answer():
    code = (
        "import contextlib, sys\nfrom sga_kohya.hosts.musubi.run import main\n"
        "with contextlib.suppress(SystemExit):\n    main(sys.argv[1:])\nprint('torch' in sys.modules)"
    )
    for words in (["--help"], [FLUX_2, "--musubi_tuner", "nowhere"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "False"
        if words == ["--help"]:
            assert all(script in done.stdout for script in SCRIPTS)
