"""Every preset through the real parser of its script, and each hand-written one through a real training step."""

import json
import subprocess
from pathlib import Path

import pytest
import toml
from safetensors import safe_open

from sga_kohya.evaluate.report.progress import find_blocks
from sga_kohya.presets import door, find_preset, preset_files

from ..forked import python
from ..make_presets import DATASETS, PRESETS
from . import tiny_flux, tiny_sd3, tiny_sd15, tiny_sdxl
from .conftest import REPOSITORY
from .data import LEVELS, write_dataset

CONFIGS = sorted(
    name
    for name, path in preset_files().items()
    if path.parent == PRESETS and path.suffix == ".toml" and name not in DATASETS
)
DOOR = {name: f"{door(find_preset(name)).removeprefix('sga_kohya.')}.py" for name in CONFIGS}
TINY = {"flux_dora": tiny_flux, "sdxl_locon": tiny_sdxl, "sd35_dora": tiny_sd3, "sd15_locon": tiny_sd15}

# One process for all: most of its time goes into importing what the scripts import.
ASK = """
import importlib, json, sys, toml
from pathlib import Path
from sga_kohya import SgaConfig, install
from sga_kohya.hosts.sd_scripts.settings import host_parser
from sga_kohya.hosts.toml_keys import parse, wrong_settings

root, presets, datasets, answer = json.loads(sys.argv[1])
sys.argv[1:] = []
with install(SgaConfig(), root):
    parsers, found = {}, {}
    for name, (path, script) in presets.items():
        parser = parsers.setdefault(script, None) or host_parser(Path(root, script))
        parsers[script] = parser
        settings = toml.loads(Path(path).read_text())
        args = parse(parser, settings, ["--config_file", path])
        broken = settings | {"seed": "x", "lr_sheduler": 1, "sdpa": "yes", "text_encoder_lr": "1.0", "loss_type": "l3"}
        wrong = [list(wrong_settings(parser, these, script)) for these in (settings, broken)]
        found[name] = [*wrong, args.network_dim]
    config_util = importlib.import_module("library.config_util")
    for name, path in datasets.items():
        sanitizer = config_util.ConfigSanitizer(True, True, False, True)
        blueprint = config_util.BlueprintGenerator(sanitizer).generate(config_util.load_user_config(path), args)
        (dataset,) = blueprint.dataset_group.datasets
        found[name] = [list(dataset.params.resolution), [s.params.custom_attributes for s in dataset.subsets]]
Path(answer).write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def answers(checkout, tmp_path_factory) -> dict:
    answer = tmp_path_factory.mktemp("presets") / "answer.json"
    presets = {name: (str(find_preset(name)), DOOR[name]) for name in CONFIGS}
    question = [str(checkout), presets, {name: str(find_preset(name)) for name in DATASETS}, str(answer)]
    command = [*python(), "-c", ASK, json.dumps(question)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=120)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(answer.read_text())


@pytest.mark.parametrize("name", CONFIGS)
def test_the_real_parser_knows_every_key_type_and_choice(answers, name):
    wrong, of_broken, rank = answers[name]
    assert wrong == [] and rank == toml.loads(find_preset(name).read_text())["network_dim"]
    assert {text.split(":")[0] for _, text in of_broken} == {
        *('seed = "x"', "lr_sheduler", 'sdpa = "yes"', 'text_encoder_lr = "1.0"', 'loss_type = "l3"')
    }


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_the_real_reader_of_datasets_takes_them(answers, name):
    resolution, attributes = answers[name]
    assert resolution == [DATASETS[name][0]] * 2 and attributes == [{"granularity": level} for level in LEVELS]


@pytest.mark.parametrize("name", sorted(TINY))
def test_a_preset_trains_on_a_tiny_model(run_host, tiny_models, tmp_path, name):
    """Everything as in the file, but the paths, the precision (no GPU here) and the length."""
    preset, dataset = toml.loads(find_preset(name).read_text()), write_dataset(tmp_path / "data", [LEVELS] * 2)
    if name == "flux_dora":
        tiny = tiny_flux.dora_args(tiny_models, dataset, tmp_path)
    else:
        tiny = TINY[name].train_args(DOOR[name], dataset, tmp_path)
    paths = {
        key: value for key, value in tiny.items() if isinstance(value, Path) or key in ("clip_l", "t5xxl", "clip_g")
    }
    (tmp_path / "prompts.txt").write_text("a cat --w 64 --h 64 --s 1 --d 1\n")
    length = {"max_train_epochs": 1, "max_data_loader_n_workers": 1, "save_every_n_epochs": 1}
    length |= {"sample_prompts": tmp_path / "prompts.txt", "sample_every_n_epochs": 1}
    more = {"mixed_precision": "no", "save_precision": "float", "output_name": "tiny", **length, **paths}
    words = [f"--{key}={value}" for key, value in more.items()]
    output = run_host(DOOR[name], "sga", ["--config_file", str(find_preset(name)), *words]).output
    assert "SGA tuple plan" in output and "2 with K=3" in output
    with safe_open(tmp_path / "tiny.safetensors", "pt") as file:
        metadata, shapes = file.metadata(), {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    down = [shape for key, shape in shapes.items() if key.endswith("lora_down.weight")]
    dora = any(key.endswith("dora_scale") for key in shapes)
    assert dora == ("dora_wd=True" in preset["network_args"])
    assert {shape[0] for shape in down if len(shape) == 2} == {preset["network_dim"]}
    if "conv_dim=16" in preset["network_args"]:
        assert 16 in {shape[0] for shape in down if len(shape) == 4 and shape[2:] == [3, 3]}
        assert any(key.startswith("lora_te") for key in shapes) and any(key.startswith("lora_unet") for key in shapes)
    else:
        assert all(key.startswith("lora_unet") for key in shapes)
    assert metadata["ss_sga_tuples"] == metadata["ss_sga_modulation"] == "true"
    assert metadata["ss_network_module"] == preset["network_module"]
    (block,) = find_blocks(tmp_path)
    assert (block.label, block.moments) == ("tiny", ["e000000", "e000001"]), "the grid knows the host's own samples"
