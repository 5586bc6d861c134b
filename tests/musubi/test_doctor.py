"""The doctor on the real musubi-tuner: a sound set-up, a broken one, stock settings, and every way to name the host."""

import json
import shutil

import pytest

from .conftest import COMMON, GROUPS
from .stacks import STACKS
from .tiny import words


@pytest.fixture(scope="module")
def answers(server_of, tuner, world_of, tmp_path_factory) -> dict[str, list[dict[str, str]]]:
    folder = tmp_path_factory.mktemp("doctor")
    stacks = {name: world_of(tuner, name) for name in ("flux_2", "z_image")}
    options = {
        name: {**COMMON, **STACKS[name].arguments(world), "output_dir": folder} for name, world in stacks.items()
    }
    flux_2, z_image = words(options["flux_2"]), words(options["z_image"])
    here = ["--musubi_tuner", str(tuner)]
    data = folder / "data"
    shutil.copytree(stacks["flux_2"] / "flux_2", data)
    dataset = (data / "dataset_musubi.toml").read_text().replace(str(stacks["flux_2"] / "flux_2"), str(data))
    (data / "dataset_musubi.toml").write_text(dataset)
    next((data / "cache" / "macro").glob("00_*")).unlink()
    (folder / "broken.toml").write_text(
        f'dataset_config = "{data}/dataset_musubi.toml"\ndit = "{options["flux_2"]["dit"]}"\nlogit_mean = "x"\n'
        'network_module = "networks.lora_flux_2"\nlearning_rat = 1e-4\nmodel_version = "klein-base-4b"\n'
        'vae = "none"\ntext_encoder = "none"\nsample_prompts = "gone.txt"\nfused_backward_pass = true\n'
    )
    questions = {
        "sound": ["musubi", "flux_2_train_network", *here, *flux_2, "--save_every_n_epochs", "1"],
        "stock": ["--script", "flux_2_train_network", *here, *flux_2, "--sga=false"],
        "by its module": flux_2,
        "z_image": ["musubi", "zimage_train.py", *here, *z_image],
        "broken": ["--config_file", str(folder / "broken.toml"), *here],
        "refused": ["musubi", "hv_train", *here],
        "required": ["musubi", "kandinsky5_train_network", *here, "--task", "k5-lite-t2v-5s-sd", "--sdpa"],
        "not given": ["musubi", "kandinsky5_train_network", *here, "--sdpa"],
    }
    answer = folder / "answer.json"
    server_of(tuner).do(folder, [{"check": "doctor", "out": answer, "questions": questions}])
    return json.loads(answer.read_text())


def texts(answer: list[dict[str, str]], level: str, subject: str | None = None) -> list[str]:
    return [f["text"] for f in answer if f["level"] == level and subject in (None, f["subject"])]


def test_a_sound_set_up_can_train(answers):
    assert texts(answers["sound"], "error") == []
    assert "every place where SGA enters musubi-tuner is as expected" in texts(answers["sound"], "ok", "seams")
    assert texts(answers["sound"], "ok", "musubi-tuner")[0].startswith("v0.3.")
    (plan,) = texts(answers["sound"], "ok", "data")
    assert f"{len(GROUPS)}: 3 with K=3, 2 with K=2, 1 with K=1" in plan and "tuple steps an epoch" in plan
    assert texts(answers["sound"], "ok", "network")[0].startswith("musubi_tuner.networks.lora_flux_2, rank 4, alpha 4")
    (made,) = texts(answers["sound"], "ok", "optimizer")
    assert made.startswith("torch.optim.adamw.AdamW") and made.endswith(", constant")
    assert texts(answers["sound"], "ok", "disk")[0].startswith("2 checkpoints of about 0.00 GB")
    pins = texts(answers["sound"], "warning", "packages") + texts(answers["sound"], "ok", "packages")
    assert any("this musubi-tuner pins" in text or "pyproject.toml asks for" in text for text in pins)


def test_stock_settings_and_a_full_fine_tune_are_examined_as_well(answers):
    assert texts(answers["stock"], "error") == [] and texts(answers["z_image"], "error") == []
    slices = sum(map(len, GROUPS))
    assert texts(answers["stock"], "ok", "data")[0].startswith(f"stock musubi-tuner: {slices} images, ")
    assert f"{len(GROUPS)}: 3 with K=3" in texts(answers["z_image"], "ok", "data")[0]
    assert any(text.startswith("zimage_train reads them") for text in texts(answers["z_image"], "ok", "options"))


def test_an_adapter_s_module_tells_the_script(answers):
    assert any(text.startswith("flux_2_train_network reads them") for text in texts(answers["by its module"], "ok"))


def test_a_broken_set_up_hears_everything_at_once(answers):
    errors, warnings = texts(answers["broken"], "error"), texts(answers["broken"], "warning")
    for part in (
        "--fused_backward_pass excludes tuples",
        "no attention is chosen, without which the model is not loaded: set sdpa = true",
        'logit_mean = "x": write a number',
        "--sample_prompts gone.txt: ",
        "--vae none: ",
    ):
        assert sum(part in text for text in errors) == 1, (part, errors)
    assert (
        "learning_rat: flux_2_train_network.py knows no such key and ignores it; did you mean learning_rate?"
        in warnings
    )
    assert any("have no caches and do not train, such as 00" in text for text in warnings)
    assert not any("sd-scripts" in text for text in errors + warnings)


def test_what_has_no_door_is_refused_with_its_reason(answers):
    (error,) = texts(answers["refused"], "error", "trainer")
    assert error.startswith("hv_train cannot be trained with SGA: it is broken in musubi-tuner itself")


def test_a_script_that_requires_words_is_examined_with_those_that_are_given(answers):
    said = texts(answers["required"], "ok", "options")
    assert any(text.startswith("kandinsky5_train_network reads them") for text in said)
    (error,) = texts(answers["not given"], "error", "options")
    assert error.endswith("the following arguments are required: --task")
