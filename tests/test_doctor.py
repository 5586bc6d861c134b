"""The doctor's parts that need no sd-scripts: which trainer, which packages, how much room, how findings are shown."""

import argparse
import importlib.metadata
import json
import shutil
import struct
import subprocess
import sys
from collections import namedtuple
from importlib import import_module
from pathlib import Path

import pytest
import toml

from sga_kohya import SgaConfig, SgaError
from sga_kohya.doctor.__main__ import examine, main
from sga_kohya.doctor.data import count_checkpoints
from sga_kohya.doctor.environment import check_disk, check_packages, pins_in
from sga_kohya.doctor.findings import Findings
from sga_kohya.doctor.of_musubi import Musubi
from sga_kohya.doctor.of_sd_scripts import SdScripts
from sga_kohya.doctor.settings import check_models, check_optimizer, checkpoint_size
from sga_kohya.hosts.musubi.families import script_of_network
from sga_kohya.hosts.sd_scripts.families import FAMILIES, guess_script, needed_options
from sga_kohya.hosts.sd_scripts.settings import FILES
from sga_kohya.hosts.toml_keys import _too_deep, wrong_settings
from sga_kohya.kit.toml_file import merge_sections
from sga_kohya.presets import door, preset_files

from . import stub_host


def checkpoint(path: Path, **shapes: list[int]) -> Path:
    """A header of names and shapes, with no tensors behind it."""
    header = {name: {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    text = json.dumps({"__metadata__": {}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


def texts(findings: Findings, level: str) -> list[str]:
    return [finding.text for finding in findings.found if finding.level == level]


@pytest.mark.parametrize(
    ("options", "script"),
    [
        ({"ae": "x", "network_module": "y"}, "flux_train_network.py"),
        ({"ae": "x"}, "flux_train.py"),
        ({"ae": "x", "gemma2": "y", "network_module": "z"}, "lumina_train_network.py"),
        ({"clip_g": "x", "network_module": "y"}, "sd3_train_network.py"),
        ({"qwen3": "x"}, "anima_train.py"),
        ({"byt5": "x", "network_module": "y"}, "hunyuan_image_train_network.py"),
        ({"no_half_vae": True}, "sdxl_train.py"),
        ({"training_shift": 3.0, "network_module": "y"}, "sd3_train_network.py"),
    ],
)
def test_settings_tell_the_trainer(options, script):
    assert guess_script(options) == script


@pytest.mark.parametrize(
    ("tensor", "adapter", "script"),
    [
        ("conditioner.embedders.1.model.x", True, "sdxl_train_network.py"),
        ("cond_stage_model.x", True, "train_network.py"),
        ("cond_stage_model.x", False, "train_db.py"),
        ("model.diffusion_model.joint_blocks.0.x", True, "sd3_train_network.py"),
        ("double_blocks.0.x", False, "flux_train.py"),
    ],
)
def test_where_settings_are_silent_the_checkpoint_tells(tmp_path, tensor, adapter, script):
    path = checkpoint(tmp_path / "m.safetensors", **{tensor: [2, 2]})
    options = {"pretrained_model_name_or_path": str(path), "network_module": "lycoris.kohya" if adapter else None}
    assert guess_script(options) == script


def test_where_nothing_tells_it_asks():
    with pytest.raises(SgaError, match="Add --script, such as --script sdxl_train_network.py"):
        guess_script({"pretrained_model_name_or_path": "x"})


def test_a_family_that_is_trained_as_adapter_only_has_no_fine_tune():
    with pytest.raises(SgaError, match="HunyuanImage by hunyuan_image_train_network.py only: set network_module"):
        guess_script({"byt5": "x"})


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_each_family_is_told_by_its_own_options_and_has_what_it_needs(family):
    for option in family.own:
        assert guess_script({option: "x", "network_module": "y"}) == family.scripts[0]
    for script in family.scripts:
        assert needed_options(script, argparse.Namespace()) == list(family.needed)
    assert ("clip_l" in needed_options(family.scripts[0], argparse.Namespace(model_type="chroma"))) is False


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    """Some options of train_network.py, as its own parser has them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int)
    parser.add_argument("--learning_rate", type=float)
    parser.add_argument("--sdpa", action="store_true")
    parser.add_argument("--text_encoder_lr", type=float, nargs="*")
    parser.add_argument("--network_args", type=str, nargs="*")
    parser.add_argument("--base_weights", type=str, nargs="*")
    parser.add_argument("--base_weights_multiplier", type=float, nargs="*")
    parser.add_argument("--loss_type", choices=["l1", "l2"], default="l2")
    parser.add_argument("--log_with", choices=["tensorboard"])
    parser.add_argument("--max_token_length", type=int, choices=[None, 150, 225])
    parser.add_argument("--dynamo_backend", type=str, choices=["eager", "inductor"])
    parser.add_argument("--max_grad_norm", type=float)
    parser.add_argument("--guidance_scale", type=float)
    parser.add_argument("--timestep_boundary", type=int)
    parser.add_argument("--lr_scheduler_num_cycles", type=int)
    parser.add_argument("--lr_scheduler", type=str)
    parser.add_argument("--noise_offset", type=float)
    parser.add_argument("--resolution", type=str)
    parser.add_argument("--resume", type=str)
    parser.add_argument("--sga_tuples")
    return parser


def test_keys_that_nobody_reads_and_values_that_nobody_checks(parser):
    good = {"seed": 1, "learning_rate": 1, "sdpa": False, "text_encoder_lr": [1e-6], "loss_type": "l2"}
    assert list(wrong_settings(parser, good | {"sga_tuples": False}, "x.py")) == []
    bad = {"seed": 1.5, "learning_rate": "x", "network_args": "algo=lora", "loss_type": "l3", "resolution": 1024}
    assert list(wrong_settings(parser, bad | {"sdp": True}, "x.py")) == [
        ("error", "seed = 1.5: write a whole number"),
        ("error", 'learning_rate = "x": write a number'),
        ("error", 'network_args = "algo=lora": write a list in [ ]'),
        ("error", 'loss_type = "l3": write one of l1, l2'),
        ("error", 'resolution = 1024: write it in quotes: "1024"'),
        ("warning", "sdp: x.py knows no such key and ignores it; did you mean sdpa?"),
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("text_encoder_lr", 5e-5),
        ("text_encoder_lr", 0),
        ("max_token_length", 75),
        ("max_token_length", 255),
        ("dynamo_backend", "no"),
        ("sdpa", 1),
        ("resume", False),
        ("max_grad_norm", "1.0"),
        ("guidance_scale", "3.5"),
        ("timestep_boundary", 0.875),
        ("lr_scheduler_num_cycles", "3"),
        ("lr_scheduler_num_cycles", 3.0),
    ],
)
def test_what_sd_scripts_reads_of_a_toml_but_not_of_a_command_line_is_nothing_wrong(parser, key, value):
    assert list(wrong_settings(parser, {key: value}, "x.py")) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("text_encoder_lr", "5e-5"),
        ("max_token_length", 20),
        ("dynamo_backend", "yes"),
        ("max_grad_norm", "0"),
        ("max_grad_norm", "one"),
        ("guidance_scale", "inf"),
        ("learning_rate", "1e-4"),
    ],
)
def test_but_not_every_value_of_these(parser, key, value):
    assert [level for level, _ in wrong_settings(parser, {key: value}, "x.py")] == ["error"]


@pytest.mark.parametrize(("scheduler", "errors"), [("cosine_with_restarts", 0), ("cosine_with_min_lr", 1)])
def test_a_number_of_cycles_in_quotes_is_read_by_what_does_not_halve_it(parser, scheduler, errors):
    settings = {"lr_scheduler": scheduler, "lr_scheduler_num_cycles": "3"}
    assert len(list(wrong_settings(parser, settings, "x.py"))) == errors


def test_a_switch_in_words_is_told_what_it_counts_as(parser):
    said = 'sdpa = "false": any text counts as true, whatever it says; write true or false'
    assert list(wrong_settings(parser, {"sdpa": "false"}, "x.py")) == [("warning", said)]


def test_a_number_that_is_true_or_false_is_told_what_it_counts_as(parser):
    """A notebook of kohya-trainer writes save_last_n_epochs_state = false into every file."""
    parser.add_argument("--save_last_n_epochs_state", type=int)
    parser.add_argument("--lr_warmup_steps", type=lambda text: float(text) if "." in text else int(text))
    parser.add_argument("--min_timestep", type=int)
    for key, value, number in (("save_last_n_epochs_state", False, 0), ("lr_warmup_steps", True, 1)):
        said = f"{key} = {json.dumps(value)}: counts as {number}; write a number, or leave it out"
        assert list(wrong_settings(parser, {key: value}, "x.py")) == [("warning", said)]
    for key in ("min_timestep", "text_encoder_lr", "resolution"):  # no number, or none that takes a boolean
        assert [level for level, _ in wrong_settings(parser, {key: True}, "x.py")] == ["error"]


def test_what_a_gui_leaves_empty_is_no_error_where_the_script_finds_nothing_in_it(parser):
    assert list(wrong_settings(parser, {"network_args": "", "sdpa": "", "text_encoder_lr": ""}, "x.py")) == []
    assert [level for level, _ in wrong_settings(parser, {"log_with": ""}, "x.py")] == ["warning"]
    assert [level for level, _ in wrong_settings(parser, {"seed": "", "loss_type": ""}, "x.py")] == ["error", "error"]


def test_the_many_keys_of_a_gui_are_one_line_and_no_hint_names_a_key_that_is_there(parser):
    settings = {"gpu_ids": "0", "learning_rat": 1, "resolution": "512", "resolutions": "512", "additional": ""}
    settings["noise_offset_type"] = "Original"  # a key of its own, and no misspelling of noise_offset
    assert [text for _, text in wrong_settings(parser, settings, "x.py")] == [
        "learning_rat: x.py knows no such key and ignores it; did you mean learning_rate?",
        "gpu_ids, resolutions, additional, noise_offset_type: x.py knows none of these keys and ignores them",
    ]


def test_settings_in_a_section_of_a_section_are_read_by_nobody(parser):
    tables = {"general": {"args": {"seed": 1}, "dataset_args": {}}, "noise": {}}
    assert list(wrong_settings(parser, merge_sections(tables), "x.py")) == [
        ("error", _too_deep("args", "seed", "x.py")),
        ("warning", "dataset_args: x.py knows no such key and ignores it"),
    ]


def test_a_multiplier_of_no_weights_is_read_by_nobody(parser):
    alone = {"base_weights_multiplier": 1.0}
    assert list(wrong_settings(parser, alone | {"base_weights": ""}, "x.py")) == []
    ((level, _),) = wrong_settings(parser, alone | {"base_weights": ["a.safetensors"]}, "x.py")
    assert level == "error"


def test_models_that_are_missing_or_not_named(tmp_path):
    there = checkpoint(tmp_path / "flux.safetensors")
    findings, none = Findings(), dict.fromkeys(("vae", "clip_g", "resume"))
    args = argparse.Namespace(
        pretrained_model_name_or_path=str(there), ae="/no/ae.sft", clip_l=None, t5xxl=None, **none
    )
    check_models("flux_train_network.py", args, SdScripts().files("flux_train_network.py", args), findings)
    assert texts(findings, "error") == [
        "--ae /no/ae.sft: /no/ae.sft does not exist; correct the path",
        "--clip_l is not set, and flux_train_network.py cannot start without it",
        "--t5xxl is not set, and flux_train_network.py cannot start without it",
    ]
    findings = Findings()
    args = argparse.Namespace(pretrained_model_name_or_path="a/repository")
    check_models("train_network.py", args, SdScripts().files("train_network.py", args), findings)
    assert "it will be fetched from Hugging Face" in texts(findings, "warning")[0]


def test_a_model_that_settings_and_models_both_miss_is_counted_once(tmp_path):
    """musubi-tuner's door asks for the network before anything starts, and the doctor asks once more of all models."""
    patient, findings, script = Musubi(), Findings(), "zimage_train"
    for dit, sentence in (
        (None, "--dit is not set, and zimage_train cannot start without it"),
        (
            "gone.safetensors",
            f"--dit gone.safetensors: {Path.cwd() / 'gone.safetensors'} does not exist; correct the path",
        ),
    ):
        findings, options = Findings(), {"dit": dit, "network_weights": ["lost.safetensors"], "sdpa": True}
        for problem in patient.problems(script, options, SgaConfig()):
            findings.error(problem)
        args = argparse.Namespace(**options, sample_prompts=None)
        check_models(script, args, patient.files(script, args), findings)
        said = texts(findings, "error")
        assert [text for text in said if "--dit" in text] == [sentence]
        assert sum("lost.safetensors" in text for text in said) == 1


def test_packages_against_the_checkout_s_pins(tmp_path, monkeypatch):
    installed = {"torch": "2.9.0+cu128", "torchvision": "0.24", "toml": "0.10.1", "einops": "0.7.0"}

    def version(name: str) -> str:
        from importlib.metadata import PackageNotFoundError

        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr("sga_kohya.doctor.environment.version", version)
    requirements, findings = tmp_path / "requirements.txt", Findings()
    requirements.write_text("einops==0.7.0\ntoml==0.10.2\ndiffusers[torch]==0.32.1\n# timm==1\nbitsandbytes\n-e .\n")
    listed = "requirements.txt", pins_in(requirements.read_text().splitlines())
    check_packages("sd-scripts", listed, {"optimizer_type": "AdamW"}, findings)
    assert texts(findings, "warning") == ["toml is 0.10.1, and this sd-scripts pins 0.10.2: pip install toml==0.10.2"]
    assert texts(findings, "error") == ["diffusers is not installed: pip install diffusers==0.32.1"]
    check_packages("sd-scripts", listed, {"optimizer_type": "AdamW8bit"}, findings)
    assert "bitsandbytes is not installed: pip install bitsandbytes" in texts(findings, "error")


def test_the_word_that_is_taught_is_needed_and_no_file():
    given, missing, none = Findings(), Findings(), dict.fromkeys(FILES)
    script = "train_textual_inversion.py"
    for word, findings in (("mychar", given), (None, missing)):
        args = argparse.Namespace(**none | {"pretrained_model_name_or_path": "a/b", "token_string": word})
        check_models(script, args, SdScripts().files(script, args), findings)
    assert texts(given, "error") == []
    assert texts(missing, "error") == [f"--token_string is not set, and {script} cannot start without it"]


@pytest.mark.parametrize(
    ("options", "package"),
    [
        ({"log_with": "wandb"}, "wandb"),
        ({"log_with": "all"}, "wandb"),
        ({"xformers": True}, "xformers"),
        ({"optimizer_type": "DAdaptAdam"}, "dadaptation"),
        ({"optimizer_type": "PagedAdamW"}, "bitsandbytes"),
        ({"sage_attn": True}, "sageattention"),
    ],
)
def test_packages_that_no_list_has_are_looked_for_where_they_are_asked_for(monkeypatch, options, package):
    def version(name: str) -> str:
        if name in ("torch", "torchvision"):
            return "2"
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("sga_kohya.doctor.environment.version", version)
    asked, not_asked = Findings(), Findings()
    check_packages("sd-scripts", ("requirements.txt", []), options, asked)
    check_packages("sd-scripts", ("requirements.txt", []), dict.fromkeys(options), not_asked)
    assert f"{package} is not installed: pip install {package}" in texts(asked, "error")
    assert texts(not_asked, "error") == []


def optimizers(args, parameters):
    """As a host makes one: of torch's or of a package's, with errors of its own over Python's."""
    if args.optimizer_type == "AdamW8bit":
        try:
            import_module("not_there_8bit")
        except ImportError:
            raise ImportError("No not_there_8bit") from None
    module, _, name = f"torch.optim.{args.optimizer_type}".rpartition(".")
    module = module if "." not in args.optimizer_type else args.optimizer_type.rpartition(".")[0]
    optimizer = getattr(import_module(module), name)(parameters)
    return args.optimizer_type, "", optimizer


def schedulers(args, optimizer, processes):
    if args.lr_scheduler == "constant" and args.lr_warmup_steps:
        raise ValueError("constant does not require `num_warmup_steps`. Set None or 0.")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({}, ""),
        ({"optimizer_type": "Adam"}, ""),
        ({"lr_warmup_steps": 5}, "lr_scheduler = constant, lr_warmup_steps = 5: ValueError: constant does not require"),
        (
            {"optimizer_type": "Lyon"},
            "optimizer_type = Lyon, optimizer_args = None: AttributeError: module 'torch.optim'",
        ),
        ({"optimizer_type": "nobody.s.Came"}, "optimizer_args = None: ModuleNotFoundError: No module named 'nobody'"),
        ({"optimizer_type": "AdamW8bit"}, ""),  # said of the packages
    ],
)
def test_the_optimizer_and_its_scheduler_are_made_before_any_model_is_loaded(changes, error):
    plain = {"optimizer_type": "AdamW", "optimizer_args": None, "learning_rate": 1e-4, "lr_warmup_steps": 0}
    args = argparse.Namespace(**plain | {"lr_scheduler": "constant", "lr_scheduler_type": ""} | changes)
    findings = Findings()
    with findings.about("packages"):
        findings.error("not-there-8bit is not installed: pip install not-there-8bit")
    with findings.about("optimizer"):
        check_optimizer((optimizers, schedulers), args, findings)
    told = [finding for finding in findings.found if finding.subject == "optimizer"]
    if error:
        assert [finding.level for finding in told] == ["error"] and error in told[0].text
    else:
        assert (
            [finding.text for finding in told] == []
            if "8bit" in args.optimizer_type
            else [f"{args.optimizer_type}, constant"]
        )


def test_no_optimizer_is_made_of_wrong_settings():
    findings = Findings()
    with findings.about("options"):
        findings.error('learning_rate = "1e-4": write a number')
    with findings.about("optimizer"):
        check_optimizer((optimizers, schedulers), argparse.Namespace(), findings)
    assert texts(findings, "warning") == ["not tried, because of the errors above"]


def test_room_on_the_disk(tmp_path, monkeypatch):
    free = namedtuple("usage", "total used free")(10**12, 0, 5 * 1024**3)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    path = checkpoint(tmp_path / "m.safetensors", a=[100, 200], b=[50, 30, 3, 3], c=[10])
    args = argparse.Namespace(network_module="x", network_dim=8)
    args.save_precision = "bf16"
    assert checkpoint_size(path, args) == (100 + 200 + 50 + 30) * 8 * 2
    args.network_module = None
    assert checkpoint_size(path, args) == path.stat().st_size
    findings = Findings()
    check_disk(tmp_path / "new" / "folder", 1024**3, 4, findings)
    assert texts(findings, "ok") == [f"4 checkpoints of about 1.00 GB, and 5.0 GB free below {tmp_path}"]
    check_disk(tmp_path, 1024**3, 6, findings)
    assert "make room, or save less often" in texts(findings, "error")[0]


@pytest.mark.parametrize(
    ("options", "files"),
    [
        ({"max_train_epochs": 40, "save_every_n_epochs": 4}, 10),
        ({"max_train_epochs": 40}, 1),
        ({"max_train_steps": 95, "save_every_n_epochs": 2}, 5),
        ({"max_train_epochs": 40, "save_every_n_epochs": 4, "save_last_n_epochs": 2}, 3),
        ({"max_train_epochs": 2, "save_every_n_steps": 5, "gradient_accumulation_steps": 2}, 2),
        ({"max_train_steps": 10_000, "save_every_n_steps": 100, "save_last_n_steps": 200}, 5),
    ],
)
def test_how_many_files_a_run_leaves(options, files):
    names = (
        "max_train_epochs",
        *(f"save_{which}" for which in ("every_n_epochs", "every_n_steps", "last_n_epochs", "last_n_steps")),
    )
    defaults = dict.fromkeys(names) | {"max_train_steps": 1600, "gradient_accumulation_steps": 1}
    assert count_checkpoints(argparse.Namespace(**defaults | options), steps_an_epoch=10) == files


def test_one_broken_thing_does_not_hide_the_others(tmp_path):
    root = stub_host.write(tmp_path / "sd-scripts", train_network="loss.backward()")
    words = ["--sd_scripts", str(root), "--script", "train_db", "--sga_tuples=perhaps", "--fused_backward_pass"]
    errors = texts(examine(words), "error")
    assert errors[0] == "sga_tuples = 'perhaps': write true or false"
    assert errors[1].startswith("--fused_backward_pass excludes tuples")
    assert errors[2].startswith("no training data")
    assert "has no train_db.py" in errors[3]


def test_findings_line_up():
    findings = Findings()
    with findings.about("data"):
        findings.ok("a\nb")
        findings.ok("a\nb")
    with findings.about("longer name"):
        raise SgaError("bad")
    with findings.about("host"):
        raise SystemExit(1)
    assert list(findings.lines()) == [
        "ok        data         a\n                       b",
        "error     longer name  bad",
        "error     host         SystemExit: 1",
    ]


def test_the_command_line(tmp_path, capsys):
    assert main(["--help"]) == 0
    assert "CONFIG.toml" in capsys.readouterr().out
    assert main([str(tmp_path / "nothing.toml")]) == 1
    out = capsys.readouterr().out
    assert "nothing.toml does not exist" in out and out.endswith("1 error, 0 warnings\n")
    assert subprocess.run([sys.executable, "-m", "sga_kohya.doctor"], capture_output=True).returncode == 2


def test_a_file_s_name_in_a_finding_cannot_move_the_cursor_or_turn_the_writing():
    findings = Findings()
    findings.error("a\x1b[1A\u202egnp: no such file\nsecond line")
    assert list(findings.lines()) == ["error       a\\x1b[1A\\u202egnp: no such file\n            second line"]


@pytest.mark.parametrize(
    "words",
    [
        ["musubi", "flux_2_train_network"],
        ["--musubi_tuner", "nowhere"],
        ["--script", "zimage_train.py"],
        ["--script", "hv_train"],
        ["--network_module", "networks.lora_wan"],
    ],
    ids=" ".join,
)
def test_the_words_or_the_adapter_s_module_tell_that_musubi_tuner_is_meant(words, tmp_path, monkeypatch):
    monkeypatch.setenv("MUSUBI_TUNER_DIR", str(tmp_path))
    assert any("this is no checkout of musubi-tuner" in text for text in texts(examine(words), "error"))


MUSUBI = [path for name, path in preset_files().items() if path.parent.name == "musubi" and "dataset" not in name]


@pytest.mark.parametrize("path", MUSUBI, ids=lambda path: path.stem)
def test_a_preset_for_musubi_tuner_is_examined_for_the_script_that_it_names(path):
    module = toml.loads(path.read_text())["network_module"]
    assert door(path) == f"sga_kohya.musubi {script_of_network(module)}"
