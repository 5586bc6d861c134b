"""What ships in presets/: consistent, complete, and given out whole."""

import ast
import json
import re
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import toml

from sga_kohya import SgaConfig, SgaError
from sga_kohya.evaluate.plan.arms import ARMS
from sga_kohya.hosts.memory import load_of
from sga_kohya.hosts.musubi.families import SCRIPTS as MUSUBI_SCRIPTS
from sga_kohya.kit.toml_file import toml_string
from sga_kohya.launch import SCRIPTS
from sga_kohya.options import read_options
from sga_kohya.presets import copy, door, find_preset, main, preset_files, title
from sga_kohya.training.memory import MODELS, Load, total

from . import make_presets
from .make_presets import (
    CARDS,
    DATASETS,
    MUSUBI,
    MUSUBI_CARDS,
    MUSUBI_VARIANTS,
    PRESETS,
    PROMPTS,
    SPARE,
    VARIANTS,
    card_changes,
    card_load,
)
from .trainers import TRAINERS

CONFIGS = sorted(
    name
    for name, path in preset_files().items()
    if path.parent == PRESETS and path.suffix == ".toml" and name not in DATASETS
)
MUSUBI_FILES = sorted(name for name, path in preset_files().items() if path.parent == MUSUBI)
MUSUBI_CONFIGS = [name for name in MUSUBI_FILES if not name.startswith("dataset")]
CARD_PRESETS = {
    f"{name}_{card}gb": (cards, card) for name, cards in (CARDS | MUSUBI_CARDS).items() for card in cards.sizes
}
STOCK = ("_raw", "_hsd")


def options(name: str) -> dict:
    return toml.loads(find_preset(name).read_text())


def test_what_is_shipped_is_what_the_generator_writes():
    stale = [path.name for path, text in make_presets.files().items() if not path.exists() or path.read_text() != text]
    assert not stale, f"run python tests/make_presets.py: {stale}"
    assert {path.name for path in PRESETS.glob("gui/*")} == {f"{name}.json" for name in CONFIGS if not is_card(name)}


def is_card(name: str) -> bool:
    return name in CARD_PRESETS


@pytest.mark.parametrize("name", sorted(CARD_PRESETS))
def test_a_preset_for_a_card_is_its_base_with_less_and_shows_its_memory(name):
    cards, card = CARD_PRESETS[name]
    changes = card_changes(cards, card)
    wanted = options(cards.base) | {key: value for key, value in changes.items() if value is not None}
    wanted = {key: value for key, value in wanted.items() if changes.get(key, value) is not None}
    assert options(name) == wanted | {"output_name": name}
    load, text = card_load(cards, card), find_preset(name).read_text()
    assert f"--resolution {load.side} --batch_size {load.batch}" in text and f"on a card of {card} GB" in title(
        find_preset(name)
    )
    (told,) = re.findall(r"#   together +([\d.]+) GB, an estimate", text)
    assert 0.3 * card < float(told) <= card - SPARE
    assert f"each {load.batch} x 3 = {3 * load.batch} slices in 3 sub-batches of {load.batch}" in text
    assert options(name).get("blocks_to_swap", 0) == load.swapped


@pytest.mark.parametrize("name", sorted(CARD_PRESETS))
def test_the_doctor_says_of_a_card_s_settings_what_its_comments_say(name):
    """From the file alone, by the way that a host's settings go."""
    (cards, card), found, text = CARD_PRESETS[name], options(name), find_preset(name).read_text()
    batch, side = (int(re.search(rf"--{word} (\d+)", text)[1]) for word in ("batch_size", "resolution"))
    encoders = find_preset(name).parent == PRESETS and not found.get("cache_text_encoder_outputs")
    load = load_of(Namespace(**found), {}, Load(batch, side, encoders=encoders))
    memory = total(MODELS[cards.model], replace(load, trained=cards.trained))
    (told,) = re.findall(r"#   together +([\d.]+) GB, an estimate", text)
    assert float(told) == pytest.approx(memory, abs=0.051) and memory <= card - SPARE
    lines = re.findall(r"^#   [a-zA-Z ]+? +(-?[\d.]+) GB  ", text, re.MULTILINE)
    assert len(lines) >= 4 and sum(map(float, lines)) == pytest.approx(memory, abs=0.3), "the parts make the sum"


def test_every_family_has_a_preset_for_each_card():
    bases = {cards.base for cards in (*CARDS.values(), *MUSUBI_CARDS.values())}
    assert bases == {*make_presets.BASES, *make_presets.MUSUBI_BASES}
    assert all(set(cards.sizes) == {12, 16, 24} for cards in (*CARDS.values(), *MUSUBI_CARDS.values()))


@pytest.mark.parametrize("base", sorted({**make_presets.BASES, **make_presets.MUSUBI_BASES}))
def test_every_base_has_the_five_arms_and_they_see_equally_many_pictures(base):
    for arm in ARMS:
        found, full = options(base if arm == "full" else f"{base}_{arm}"), options(base)
        assert found["dataset_config"].endswith("_raw.toml") == (arm == "raw")
        assert found["max_train_epochs"] == full["max_train_epochs"] * (3 if arm == "raw" else 1)
        if not base.endswith(tuple(STOCK)) and found["sga"]:
            assert (found["sga_tuples"], found["sga_modulation"]) == (ARMS[arm].tuples, ARMS[arm].modulation)
        assert found["sga"] == (arm not in ("raw", "hsd"))


@pytest.mark.parametrize("name", [*CONFIGS, *MUSUBI_CONFIGS])
def test_a_preset_can_be_watched(name):
    found = options(name)
    prompts = find_preset(found["sample_prompts"]).read_text().splitlines()
    assert found["sample_at_first"] and found["sample_every_n_epochs"] == found["save_every_n_epochs"]
    assert sum(" --d " in line for line in prompts) == len([line for line in prompts if not line.startswith("#")]) > 3


@pytest.mark.parametrize("name", sorted(VARIANTS | MUSUBI_VARIANTS))
def test_a_variant_differs_from_its_base_in_the_stated_keys_only(name):
    base, _, changes = (VARIANTS | MUSUBI_VARIANTS)[name]
    ours, theirs = options(name), options(base)
    assert ours == theirs | changes | {"output_name": name}
    assert all(theirs[key] != value for key, value in changes.items())


@pytest.mark.parametrize("name", CONFIGS)
def test_a_preset_is_complete_for_sga_and_names_its_door(name):
    module = door(find_preset(name))
    assert f"{module.removeprefix('sga_kohya.')}.py" in SCRIPTS
    text = find_preset(name).read_text()
    assert f"--config_file {name}.toml" in text and f"sga_kohya.doctor {name}.toml" in text
    assert "wd_on_output" not in text or "dora_wd=True" in options(name)["network_args"], "advice for another adapter"
    config = SgaConfig.from_options(read_options(["--config_file", str(find_preset(name))]))
    assert config.enabled == (not name.endswith(STOCK))
    assert config.tuples == ("without_tuples" not in name) and config.modulation == ("without_modulation" not in name)
    assert config.timestep_shift == SgaConfig().timestep_shift and config.snr_gamma == SgaConfig().snr_gamma
    assert len(title(find_preset(name))) > 20


@pytest.mark.parametrize("name", MUSUBI_CONFIGS)
def test_a_preset_for_musubi_tuner_names_its_script_and_the_scripts_that_cache(name):
    module, script = door(find_preset(name)).split()
    assert module == "sga_kohya.musubi" and script in MUSUBI_SCRIPTS
    text = find_preset(name).read_text()
    family = script.removesuffix("_train_network")
    assert f"--config_file {name}.toml" in text
    assert f"{family}_cache_latents.py" in text and f"{family}_cache_text_encoder_outputs.py" in text
    config = SgaConfig.from_options(read_options(["--config_file", str(find_preset(name))]))
    parts = {"tuples": "without_tuples" not in name, "modulation": "without_modulation" not in name}
    assert config == SgaConfig(enabled=not name.endswith(STOCK), **parts)
    settings, flux = options(name), options("flux_dora")
    for key in ("network_dim", "network_alpha", "learning_rate"):
        assert settings[key] == flux[key]
    if name in make_presets.MUSUBI_BASES:
        assert settings["optimizer_type"] == flux["optimizer_type"]
        assert settings["max_train_epochs"] == flux["max_train_epochs"]
        assert "carried over, not tried in it" in title(find_preset(name))


def test_the_tables_of_the_paper():
    flux, sdxl = options("flux_dora"), options("sdxl_locon")
    assert (flux["network_dim"], flux["network_alpha"], flux["learning_rate"]) == (32, 16, 1e-4)
    assert flux["optimizer_type"] == "AdamW" and "dora_wd=True" in flux["network_args"]
    assert (sdxl["network_dim"], sdxl["network_alpha"], sdxl["optimizer_type"]) == (64, 32, "Lion")
    assert (sdxl["unet_lr"], sdxl["text_encoder_lr"]) == (3e-5, [3e-6])
    assert {"conv_dim=16", "conv_alpha=8"} <= set(sdxl["network_args"]) and sdxl["shuffle_caption"]
    for name, (side, batch) in {"dataset_flux": (1280, 8), "dataset_sdxl": (1024, 2)}.items():
        (dataset,) = options(name)["datasets"]
        assert (dataset["resolution"], dataset["batch_size"]) == (side, batch)


@pytest.mark.parametrize("name", [name for name in CONFIGS if not is_card(name)])
def test_the_gui_s_file_says_the_same(name):
    gui, config = json.loads(find_preset(f"{name}.json").read_text()), options(name)
    pairs = (word.removeprefix("--").partition("=") for word in gui["additional_parameters"].split())
    words = {key: value for key, _, value in pairs}
    assert words["sample_at_first"] == "" and "your subject" in gui["sample_prompts"]
    ours = SgaConfig.from_options({key: value for key, value in words.items() if key.startswith("sga")})
    assert ours == SgaConfig.from_options({key: value for key, value in config.items() if key.startswith("sga")})
    assert gui["extra_accelerate_launch_args"] == "-m sga_kohya.launch"
    assert gui["dora_wd"] == ("dora_wd=True" in config["network_args"])
    assert (gui["text_encoder_lr"] == 0) == config.get("network_train_unet_only", False)
    for key in ("network_dim", "network_alpha", "max_train_epochs", "seed", "pretrained_model_name_or_path"):
        assert gui[key] == config[key]


def test_the_gui_knows_every_field_of_its_files():
    """Its newest version opens a configuration by the names of its function's parameters, and trains by the same."""
    copy = TRAINERS / "kohya_ss" / "kohya_gui" / "lora_gui.py"
    if not copy.is_file():
        pytest.skip(f"no copy of the kohya_ss GUI at {copy}")
    source = copy.read_text(encoding="utf-8")
    functions = {f.name: f for f in ast.parse(source).body if isinstance(f, ast.FunctionDef)}
    opened, trained = (functions[name].args.args for name in ("open_configuration", "train_model"))
    fields = {argument.arg for argument in opened} & {argument.arg for argument in trained}
    files = sorted(PRESETS.glob("gui/*.json"))
    assert len(files) > 10
    for file in files:
        gui = json.loads(file.read_text(encoding="utf-8"))
        assert not gui.keys() - fields, file.name
        assert f'"{gui["LoRA_type"]}"' in source and f'"{gui.get("LyCORIS_preset", "full")}"' in source, file.name


def test_copy_gives_the_whole_file_and_the_next_command(tmp_path, capsys):
    main(["copy", "flux_dora", str(tmp_path / "new folder")])
    target = tmp_path / "new folder" / "flux_dora.toml"
    prompts = target.with_name("sample_prompts.txt")
    shipped = find_preset("flux_dora").read_text().replace('"sample_prompts.txt"', toml_string(str(prompts)))
    assert target.read_text() == shipped and toml.loads(shipped)["sample_prompts"] == str(prompts)
    assert sorted(target.parent.iterdir()) == [target, prompts]
    prompts.write_text("my own")
    main(["copy", "flux_dora", str(target.parent), "--force"])
    assert prompts.read_text() == "my own"
    out = capsys.readouterr().out
    assert f"accelerate launch -m sga_kohya.flux_train_network --config_file '{target}'" in out
    main(["copy", "dataset_sdxl.toml", str(tmp_path)])
    assert "name it in your preset" in capsys.readouterr().out
    main(["copy", "flux2_lora", str(tmp_path)])
    out = capsys.readouterr().out
    assert f"-m sga_kohya.musubi flux_2_train_network --config_file {tmp_path / 'flux2_lora.toml'}" in out
    assert "run the two commands at its top that cache" in out
    assert f"python -m sga_kohya.doctor {tmp_path / 'flux2_lora.toml'}" in out
    main(["copy", "sdxl_locon.json", str(tmp_path)])
    assert json.loads((tmp_path / "sdxl_locon.json").read_text())["sdxl"] is True


def test_copy_does_not_overwrite_unless_told_to(tmp_path, capsys):
    target = copy("sd15_locon", tmp_path)
    target.write_text("mine")
    assert main(["copy", "sd15_locon", str(tmp_path)]) == 2
    assert f"{target} exists: name another folder, or overwrite it with --force" in capsys.readouterr().err
    assert target.read_text() == "mine"
    main(["copy", "sd15_locon", str(tmp_path), "--force"])
    assert target.read_text() != "mine"


def test_list_and_show(capsys):
    main(["list"])
    lines = capsys.readouterr().out
    assert all(name in lines for name in [*CONFIGS, *DATASETS, *MUSUBI_FILES]) and "Table 3 of arXiv" in lines
    starts = {re.match(r"  \S+ +", line).end() for line in lines.split("\n\n")[0].splitlines()}
    assert len(starts) == 1 and "presets copy NAME DIR" in lines, "one column of titles"
    main(["show", "flux_dora"])
    assert capsys.readouterr().out == find_preset("flux_dora").read_text()
    with pytest.raises(SgaError, match="no preset 'flux_dore': did you mean flux_dora?"):
        find_preset("flux_dore")


def test_the_command_answers_without_torch():
    code = "import sys, sga_kohya.presets; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_readme_of_the_presets_names_them_all():
    text = (Path(PRESETS) / "README.md").read_text()
    bases = [*make_presets.BASES, *make_presets.MUSUBI_BASES, *CARDS, *MUSUBI_CARDS, *(path.name for path in PROMPTS)]
    arms, cards = [f"NAME_{arm}" for arm in ARMS if arm != "full"], ["NAME_12gb", "NAME_16gb", "NAME_24gb"]
    assert [name for name in (*bases, *arms, *cards, *DATASETS) if f"`{name}`" not in text] == []
