"""Options from the command line and TOML, and the errors for bad ones."""

import argparse
import re

import pytest

import sga_kohya
from sga_kohya.config import SgaConfig, add_arguments
from sga_kohya.errors import SgaError
from sga_kohya.options import read_options


def parsed(*argv: str) -> SgaConfig:
    return SgaConfig.from_options(read_options(argv))


def test_defaults_are_the_paper_s():
    config = SgaConfig()
    assert config.timestep_shift == {"macro": 0.5, "meso": 0.0, "micro": -0.5}
    assert (config.tuples, config.modulation, config.tuple_reduction) == (True, True, "mean")
    assert config.active


def test_words_of_the_command_line():
    config = parsed("--sga_tuples=false", "--sga_modulation", "--sga_timestep_shift", "macro:1,micro:-2")
    assert (config.tuples, config.modulation) == (False, True)
    assert config.timestep_shift == {"macro": 1.0, "micro": -2.0}
    assert not parsed("--sga=false").active
    assert not parsed("--sga_tuples=off", "--sga_modulation=no").active


def test_the_toml_is_flattened_as_the_host_does_and_the_command_line_wins(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        "seed = 1\nsga_groups_per_step = 4\n[sga_timestep_shift]\nmacro = 0.25\n"
        "[train]\nsga_tuple_reduction = 'sum'\nnetwork_module = 'x'\n[sga]\nsga_modulation = false\n"
    )
    for name in (str(path), str(path.with_suffix(""))):
        options = read_options(["--config_file", name, "--sga_groups_per_step=8"])
        config = SgaConfig.from_options(options)
        assert (options["seed"], options["network_module"]) == (1, "x")
        assert (config.groups_per_step, config.tuple_reduction, config.modulation) == (8, "sum", False)
        assert config.timestep_shift == {"macro": 0.25}


def test_lists_and_switches():
    options = read_options(["--network_args", "algo=lora", "dora_wd=True", "--sdpa", "--lr=1e-4"])
    assert options == {"network_args": ["algo=lora", "dora_wd=True"], "sdpa": True, "lr": "1e-4"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--sga_tuple=false"], "unknown option sga_tuple: did you mean sga_tuples"),
        (["--sga_tuples=maybe"], "sga_tuples = 'maybe': write true or false"),
        (["--sga_timestep_shift", "macro=1"], "macro=1.*macro:0.5,meso:0,micro:-0.5"),
        (["--sga_timestep_shift", "macro:inf"], "finite"),
        (["--sga_timestep_shift", "makro:1"], "'makro' is none of the granularities"),
        (["--sga_loss_weight", "macro:-1"], "macro:-1.*at least 0"),
        (["--sga_tuple_reduction", "median"], "'median'.*mean, sum, constant"),
        (["--sga_groups_per_step", "0"], "'0'.*whole number from 1"),
        (["--sga_granularities", "one"], "'one'.*two or more"),
        (["--sga_granularities", "a,b"], "no default. Give Delta.*shift a:0,b:0.*--sga_modulation=false"),
        (["--sga_snr_gamma", "macro:0"], "macro:0: Gamma must be above 0"),
        (["--sga_snr_gamma", "makro:4"], "'makro' is none of the granularities"),
        (["--sga_timestep_shift_form", "paper"], "'paper'.*logit, upstream"),
        (["--sga_flow_snr_weight", "perhaps"], "'perhaps'.*true or false"),
        (["--sga_show_timesteps", "levels.svg"], "levels.svg.*an existing folder, or a .png"),
        (["--sga_show_timesteps", "/nowhere/levels.png"], "an existing folder"),
        (["--sga_show_timesteps", "/tmp", "--sga=false"], "switch it on: --sga"),
        (["--sga_manifest", "/nowhere.jsonl"], "/nowhere.jsonl.*no such file"),
        (["--config_file", "/nowhere"], "/nowhere.toml does not exist"),
    ],
)
def test_errors_name_the_value_and_the_remedy(argv, message):
    with pytest.raises(SgaError, match=message):
        parsed(*argv)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = = 1", "not valid TOML"),
        ("sga_loss_weight = {macro = 2", "not valid TOML"),
        (r'output_dir = "C:\Users\me"', "not valid TOML.*single quotes"),
        (r'output_dir = "C:\new\table"', "output_dir = .*single quotes"),
        ("[a]\n" + r'args = ["x", "D:/models\t5.safetensors"]', "args = .*single quotes"),
        ("\ufeffsga = false", ".*byte order mark.*sd-scripts loses the first key. Save it as UTF-8 without BOM"),
    ],
)
def test_a_toml_that_would_be_read_as_something_else_is_named(tmp_path, text, message):
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SgaError, match=f"--config_file .*run.toml: {message}"):
        read_options(["--config_file", str(path)])


@pytest.mark.parametrize(("name", "remedy"), [("mine.json", "config_lora-DATE.toml"), ("mine", "give the file that")])
def test_a_file_that_the_host_would_not_look_at_is_said_with_what_it_looks_for(tmp_path, name, remedy):
    """The presets of the kohya_ss GUI are JSON, and sd-scripts adds .toml to whatever it is given."""
    (tmp_path / name).write_text('{"learning_rate": 1e-4}')
    with pytest.raises(SgaError, match=f"{name}: sd-scripts reads TOML alone, and looks for {name}.toml: .*{remedy}"):
        read_options(["--config_file", str(tmp_path / name)])
    (tmp_path / f"{name}.toml").write_text("seed = 1")
    assert read_options(["--config_file", str(tmp_path / name)])["seed"] == 1


def test_line_breaks_in_prompts_and_paths_in_single_quotes_are_nobody_s_mistake(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(r"""output_dir = 'C:\new\table'
negative = "Q: what?\nA: that"
""")
    options = read_options(["--config_file", str(path)])
    assert (options["output_dir"], options["negative"]) == (r"C:\new\table", "Q: what?\nA: that")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("SGA_TUPLES = false", "SGA_TUPLES: did you mean sga_tuples"),
        ("sga-tuples = false", "sga-tuples: did you mean sga_tuples"),
        ('"sga tuples" = false', "sga tuples: did you mean sga_tuples"),
        ("SGA = false", "SGA: did you mean sga?"),
        ("gsa_tuples = false", "gsa_tuples: did you mean sga_tuples"),
        ("sgatuples = false", "sgatuples: did you mean sga_tuples"),
        ("ss_sga_tuples = false", "ss_sga_tuples: did you mean sga_tuples"),
        ("[sga]\ntuples = false", "sga.tuples: did you mean sga_tuples"),
        ("sga.tuples = false", "sga.tuples: did you mean sga_tuples"),
        ("[sga]\nenabled = false", "sga.enabled: did you mean sga, at the top"),
        ('["SGA"]\nloss_weight = {macro = 2}', "SGA.loss_weight: did you mean sga_loss_weight"),
        ("[network.x.sga]\ntuples = false", "network.x.sga: write sga at the top"),
        ("[a]\n[a.b]\nsga_tuples = false", "a.b.sga_tuples: write sga_tuples at the top"),
        ("[[a]]\nb = 1\nsga_tuples = false", "a.0.sga_tuples: write sga_tuples at the top"),
    ],
)
def test_no_spelling_of_a_key_of_ours_is_passed_over(tmp_path, text, hint):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(SgaError) as caught:
        parsed("--config_file", str(path))
    assert f"unknown option {hint}" in str(caught.value)


@pytest.mark.parametrize("text", ['"sga_tuples" = false', "'sga_tuples' = false", "[SGA]\nsga_tuples = false"])
def test_quotes_and_sections_change_nothing_nor_does_a_shortened_config_file(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text)
    assert not parsed(f"--config={path}").tuples


def test_keys_of_the_host_and_of_other_plugins_are_not_ours():
    hosts = ["show_timesteps", "save_path", "ae_path", "min_snr_gamma", "prior_loss_weight", "sgd_momentum", "manifest"]
    assert SgaConfig.from_options(dict.fromkeys(hosts, "x")) == SgaConfig()


def test_one_error_names_all_that_is_wrong():
    with pytest.raises(SgaError) as caught:
        parsed("--sga_tuple", "--sga_tuples=perhaps", "--sga_stop_at_hours=0", "--sga_path=curved")
    assert str(caught.value).startswith("4 options are wrong: (1) unknown option sga_tuple: did you mean sga_tuples?;")
    assert all(f"({number}) " in str(caught.value) for number in range(1, 5))
    with pytest.raises(SgaError, match=r"2 options are wrong: \(1\) .*at least 0; \(2\) .*above 0"):
        parsed("--sga_snr_gamma=macro:0", "--sga_loss_weight=macro:-1")


def test_long_values_are_shown_short():
    with pytest.raises(SgaError, match=r"1111\.\.\. \(402 characters\): write a whole number") as caught:
        parsed("--sga_groups_per_step", "1" * 400)
    assert len(str(caught.value)) < 300


def test_labels_of_one_s_own_have_no_default_delta_which_one_sentence_says_with_the_remedy():
    with pytest.raises(SgaError) as caught:
        parsed("--sga_granularities=clip,shot,moment,frame")
    text = str(caught.value)
    assert text.startswith("sga_granularities = clip,shot,moment,frame: nobody has measured")
    assert "suit clip, shot, moment, frame, so there is no default" in text
    remedies = re.findall(r"--(sga_\w+[ =][\w:,]+)", text)
    assert len(remedies) == 3
    for remedy in remedies:
        parsed("--sga_granularities=clip,shot,moment,frame", f"--{remedy.replace(' ', '=')}")
    with pytest.raises(SgaError, match="noise levels suit detail, so there is no default"):
        parsed("--sga_granularities=macro,meso,micro,detail")


def test_labels_of_one_s_own():
    config = parsed("--sga_granularities=body,face", "--sga_timestep_shift=body:0.3,face:-0.3")
    assert config.granularities == ("body", "face")
    # A U-Net needs Gamma only.
    assert parsed("--sga_granularities=body,face", "--sga_snr_gamma=body:4,face:7").snr_gamma == {"body": 4, "face": 7}


def test_a_folder_for_the_preview_gets_a_file_name(tmp_path):
    config = parsed(f"--sga_show_timesteps={tmp_path}", "--sga_tuples=false", "--sga_modulation=false")
    assert config.show_timesteps == tmp_path / "sga_timesteps.png" and config.active
    assert not any(str(tmp_path) in text for text in config.metadata().values())


def test_the_host_s_parser_accepts_every_option():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(["--sga", "--sga_tuples=false", "--sga_modulation", "--sga_loss_weight", "macro:2"])
    assert (args.sga, args.sga_tuples, args.sga_loss_weight) == ("true", "false", "macro:2")
    assert args.sga_groups_per_step is None


def test_metadata_publishes_no_path(tmp_path):
    path = tmp_path / "sga_manifest.jsonl"
    path.touch()
    assert not any(str(tmp_path) in text for text in parsed(f"--sga_manifest={path}").metadata().values())


def test_metadata_is_text_and_leaves_out_what_is_not_set():
    metadata = parsed("--sga_loss_weight=micro:0.5").metadata()
    assert metadata["ss_sga_timestep_shift"] == "macro:0.5,meso:0,micro:-0.5"
    assert metadata["ss_sga_loss_weight"] == "micro:0.5"
    assert metadata["ss_sga_tuples"] == "true"
    assert metadata["ss_sga_version"] == sga_kohya.__version__
    assert all(isinstance(value, str) for value in metadata.values())


def test_switched_off_nothing_of_ours_happens():
    config = SgaConfig(enabled=False, path="shell", probe_every=3, save_at_hours=(1.0,))
    assert not (config.active or config.plans_tuples or config.modulates or config.leaves_line)
    assert (config.delta("macro"), config.gamma("macro")) == (0.0, None)


def test_what_a_granularity_gets_and_what_a_sample_without_one():
    config = SgaConfig(loss_weight={"micro": 2.0}, snr_gamma={"macro": 4.0})
    assert (config.weight("micro"), config.weight("macro"), config.weight(None)) == (2.0, 1.0, 1.0)
    assert (config.delta("micro"), config.delta(None)) == (-0.5, 0.0)
    assert (config.gamma("macro"), config.gamma("micro"), config.gamma(None)) == (4.0, None, None)
    assert SgaConfig(modulation=False).delta("micro") == 0.0
    assert (SgaConfig().surgery, SgaConfig(gradient_surgery="pcgrad").surgery) == ("", "pcgrad")
