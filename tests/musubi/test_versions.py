"""Every musubi-tuner found here: the seams go in and come out, what families.py says of it is true, and it trains."""

import json
from pathlib import Path

import numpy as np
import toml
from safetensors.numpy import save_file

from sga_kohya.hosts.musubi.families import SCRIPTS
from sga_kohya.hosts.musubi.samplers import arguments_of, caching, script_for
from sga_kohya.hosts.sampling import Job, Sampling
from sga_kohya.presets import find_preset

from .conftest import default_tuner
from .test_flux_2 import MEMBERS, clipped, close, eq_6, of, recorded, steps, weights

PRESETS = {
    "flux_2_train_network": "flux2_lora",
    "zimage_train_network": "z_image_lora",
    "qwen_image_train_network": "qwen_image_lora_24gb",
}
TOO_OLD = "Qwen3VLConfig"  # of transformers, which is the one that sd-scripts pins


def test_seams_go_into_every_script_and_a_family_names_the_trainer_that_mixes_noise_by_itself(
    server_of, any_tuner, tmp_path
):
    """hv_train_network's trainer is the base itself."""
    answer = tmp_path / "answer.json"
    server_of(any_tuner).do(tmp_path, [{"check": "seams", "out": answer, "tuner": str(any_tuner)}])
    found = json.loads(answer.read_text())
    for script, (result, overrides) in found.items():
        if result == "absent":
            assert any_tuner != default_tuner(), f"{script} is not in the version that everything is tested on"
        elif TOO_OLD in result:
            assert script in ("krea2_train_network", "ideogram4_train_network")
        else:
            assert result == "installed", f"{script}: {result}"
            expected = [SCRIPTS[script].trainer] if SCRIPTS[script].trainer else []
            assert overrides == expected, f"{script} mixes noise in {overrides}"


def test_it_trains_whole_groups_and_resumes(run, any_tuner, tmp_path):
    """FLUX.2, or Z-Image where that is not there yet."""
    there = (any_tuner / "src" / "musubi_tuner" / "flux_2_train_network.py").is_file()
    stack = "flux_2" if there else "z_image"
    common = {"stack": stack, "door": "sga", "max_train_epochs": 2, "save_state": True, "save_every_n_steps": 5}
    again = {**common, "resume": tmp_path / "whole" / "tiny-step00000005-state"}
    run({"out": "whole", "record": True, **common}, {"out": "again", **again}, tuner=any_tuner)
    trained = steps(recorded(tmp_path, "whole"))
    assert sorted(n for s in trained for b in of(s, "batch") for n in b["ids"]) == sorted([*MEMBERS, *MEMBERS])
    for step in trained:
        close(of(step, "step")[0]["grads"], clipped(eq_6(of(step, "batch"), of(step, "backward"))))
    whole, other = weights(tmp_path / "whole"), weights(tmp_path / "again")
    assert all((whole[key] == other[key]).all() for key in whole) and whole.keys() == other.keys()


def what_a_study_says(door: str, folder: Path) -> list[list[str]]:
    """What draws two pictures with an adapter of the door's preset, and what caches its data."""
    preset, script = find_preset(PRESETS[door]), script_for(door)
    assert script is not None
    folder.mkdir()
    adapter = folder / "a.safetensors"
    save_file({"lycoris_x.lora_up.weight": np.zeros(2)}, adapter)
    sampling = Sampling(script, str(preset), width=640, height=512, steps=7, scale=4.0, negative="dog")
    jobs = [Job(0, "a cat", 5), Job(1, "a fox", 5)]
    words = arguments_of(sampling, {"output_type": "images"}, adapter, jobs, folder)
    caches = caching(door, toml.loads(preset.read_text()), Path("d.toml"))
    return [[script, *words], *([cache, *words] for cache, words in caches)]


def test_its_scripts_that_draw_and_cache_read_what_a_study_tells_them(server_of, any_tuner, tmp_path):
    """By their own parsers; whatever they do not know ends them."""
    answer = tmp_path / "answer.json"
    commands = [words for door in PRESETS for words in what_a_study_says(door, tmp_path / door)]
    server_of(any_tuner).do(tmp_path, [{"check": "understood", "out": answer, "commands": commands}])
    read = json.loads(answer.read_text())
    for place, (door, name) in enumerate(PRESETS.items()):
        drawing, latents, texts = read[3 * place : 3 * place + 3]
        if drawing is None:
            assert door == "flux_2_train_network" and "v0.2" in any_tuner.name, "it begins with v0.3.0"
            continue
        settings = toml.loads(find_preset(name).read_text())
        assert drawing["lora_weight"] == [str(tmp_path / door / "a.safetensors")] and drawing["lycoris"]
        assert drawing["lora_multiplier"] == [1.0], "a list: of their own default they ask the length"
        assert drawing["save_path"] == str(tmp_path / door / "images") and drawing["output_type"] == "images"
        assert all(drawing[key] == settings[key] for key in ("dit", "vae", "text_encoder"))
        assert drawing["fp8"] == settings.get("fp8_base", False)
        assert drawing["blocks_to_swap"] == settings.get("blocks_to_swap", 0)
        assert (latents["vae"], texts["text_encoder"]) == (settings["vae"], settings["text_encoder"])
        assert latents["dataset_config"] == texts["dataset_config"] == "d.toml"
        if "model_version" in settings:
            assert all(one["model_version"] == settings["model_version"] for one in (drawing, latents, texts))
        lines = Path(drawing["from_file"]).read_text().splitlines()
        assert lines == [f"{prompt} --w 640 --h 512 --s 7 --d 5 --g 4.0 --n dog" for prompt in ("a cat", "a fox")]
