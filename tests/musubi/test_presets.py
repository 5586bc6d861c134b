"""Presets for musubi-tuner through its real parsers and its real reader of datasets."""

import json

import pytest

from sga_kohya.presets import door, find_preset, preset_files

from ..make_presets import MUSUBI

FILES = {name: path for name, path in preset_files().items() if path.parent == MUSUBI}
CONFIGS = {name: door(path).split()[1] for name, path in FILES.items() if not name.startswith("dataset")}
DATASETS = {"dataset_musubi": [[True, 4]] * 3, "dataset_musubi_clips": [[False, 4], [True, 4], [True, 4]]}


@pytest.fixture(scope="module")
def answers(server_of, tuner, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("presets")
    files = {str(find_preset(name)): script for name, script in CONFIGS.items()}
    datasets = {str(find_preset(name)): "wan" for name in DATASETS}
    job = {"check": "presets", "out": folder / "answer.json", "files": files, "datasets": datasets}
    server_of(tuner).do(folder, [job])
    return json.loads((folder / "answer.json").read_text())


@pytest.mark.parametrize("name", CONFIGS)
def test_the_real_parser_knows_every_key_type_and_choice(answers, name):
    wrong, of_broken = answers[str(find_preset(name))]
    assert wrong == []
    assert {text.split(":")[0] for _, text in of_broken} == {
        *('seed = "x"', "lr_sheduler", 'sdpa = "yes"', 'timestep_sampling = "flux3_shift"')
    }


@pytest.mark.parametrize("name", DATASETS)
def test_the_real_reader_of_datasets_takes_them(answers, name):
    assert answers[str(find_preset(name))] == DATASETS[name]
