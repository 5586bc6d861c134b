"""The doctor on the real sd-scripts: a sound set-up, a broken one, and every door's."""

import json
import os
import subprocess

import pytest

from ..forked import python
from .conftest import REPOSITORY, to_arguments
from .data import LEVELS, with_masks, write_dataset
from .run import OFFLINE, ON_PROCESSOR
from .tiny_flux import dora_args
from .tiny_sd15 import with_metadata_files

# Of other families, and of each way to describe a dataset.
OTHERS = ("sdxl_train_network.py", "train_db.py", "fine_tune.py", "anima_train.py")

# One process for all, because its first half minute of imports is the same for each.
ASK = """
import json, sys
from pathlib import Path
from sga_kohya.doctor.__main__ import examine

questions, answer = json.loads(sys.argv[1])
sys.argv[1:] = []
found = {name: [vars(finding) for finding in examine(words).found] for name, words in questions.items()}
Path(answer).write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def answers(checkout, tiny_models, tmp_path_factory) -> dict[str, list[dict[str, str]]]:
    folder = tmp_path_factory.mktemp("doctor")
    dataset = write_dataset(folder / "data", [LEVELS] * 3 + [("macro", "micro")])
    options = dora_args(tiny_models, dataset, folder / "out", max_train_epochs=4, save_every_n_epochs=1)
    options |= {"clip_l": tiny_models["ae"], "t5xxl": tiny_models["ae"]}
    here = ["--sd_scripts", str(checkout)]
    questions = {"sound": [*here, *to_arguments(options)], "stock": [*here, *to_arguments(options), "--sga=false"]}

    masked = with_masks(write_dataset(folder / "masked", [LEVELS] * 4))
    masked.write_text(masked.read_text().replace("[[datasets]]", "[[datasets]]\nvalidation_split = 0.25"))
    questions["masked"] = [*here, *to_arguments(options | {"dataset_config": masked}), "--masked_loss"]
    broken = write_dataset(folder / "broken", [LEVELS] * 2)
    (folder / "broken" / "1_macro" / "00_astronaut.txt").write_text("")
    (folder / "broken.toml").write_text(
        f'dataset_config = "{broken}"\nae = "nope"\nnetwork_module = "lycoris.kohia"\nlearning_rate = "1e-4"\n'
        'guidance_scal = 1.0\nfp8_base = true\nnetwork_args = ["dora_wd=True"]\n'
    )
    questions["broken"] = ["--config_file", str(folder / "broken.toml"), *here, "--fused_backward_pass"]
    odd = write_dataset(folder / "odd", [LEVELS])
    odd.write_text(odd.read_text().replace("bucket_reso_steps = 64", "bucket_reso_steps = 24"))
    questions["odd"] = [*here, *to_arguments(options | {"dataset_config": odd})]
    (folder / "gui.toml").write_text(
        'text_encoder_lr = 5e-5\nmax_token_length = 75\ndynamo_backend = "no"\noptimizer_args = ""\n'
        'epoch = 2\ngpu_ids = "0"\nnoise_offset = 0\nnoise_offset_type = "Original"\n'
    )
    questions["gui"] = [*here, *to_arguments(options | {"config_file": folder / "gui.toml"})]
    (folder / "typed.toml").write_text('validation_split = 0\ncaption_dropout_rate = "0.1"\nmax_grad_norm = "1.0"\n')
    questions["typed"] = [*here, *to_arguments(options | {"config_file": folder / "typed.toml"})]
    misplaced = write_dataset(folder / "misplaced", [LEVELS])
    misplaced.write_text(misplaced.read_text().replace("num_repeats", "max_bucket_reso = 512\nnum_repeats", 1))
    questions["misplaced"] = [*here, *to_arguments(options | {"dataset_config": misplaced})]
    shuffled = {"cache_text_encoder_outputs": True, "shuffle_caption": True}
    questions["shuffled"] = [*here, *to_arguments(options | shuffled)]
    whole = {name: value for name, value in options.items() if not name.startswith("network_")}
    questions["shuffled whole"] = [*here, "--script", "flux_train.py", *to_arguments(whole | shuffled)]
    questions["cropped"] = [*here, *to_arguments(options | {"cache_latents": True, "random_crop": True})]
    questions["warmed up"] = [*here, *to_arguments(options | {"lr_scheduler": "constant", "lr_warmup_steps": 5})]
    questions["refused"] = [*here, *to_arguments(options), "--seed", "many"]
    for script in OTHERS:
        described = with_metadata_files(dataset) if script == "fine_tune.py" else dataset
        words = ["--dataset_config", str(described), "--output_dir", str(folder)]
        words += ["--pretrained_model_name_or_path", "no.pt"]
        questions[script] = [*here, "--script", script, *words]

    answer = folder / "answer.json"
    command = [*python(), "-c", ASK, json.dumps([questions, str(answer)])]
    environment = {**os.environ, **OFFLINE, **ON_PROCESSOR}
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=280, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "Loading settings" not in result.stdout
    return json.loads(answer.read_text())


def texts(answer: list[dict[str, str]], level: str, subject: str | None = None) -> list[str]:
    return [f["text"] for f in answer if f["level"] == level and subject in (None, f["subject"])]


def test_a_sound_set_up_can_train(answers):
    assert texts(answers["sound"], "error") == []
    (plan,) = texts(answers["sound"], "ok", "data")
    assert "4: 3 with K=3, 1 with K=2" in plan and "tuple steps an epoch" in plan
    assert texts(answers["sound"], "ok", "network")[0].startswith("lycoris.kohya, rank 4, alpha 2")
    (made,) = texts(answers["sound"], "ok", "optimizer")
    assert made.startswith("torch.optim.adamw.AdamW") and made.endswith(", constant")
    assert texts(answers["sound"], "ok", "disk")[0].startswith("4 checkpoints of about 0.00 GB")
    assert any("ComfyUI" in text for text in texts(answers["sound"], "warning", "settings"))
    assert any("no CUDA device" in text for text in texts(answers["sound"], "warning", "GPU"))


def test_what_a_gui_writes_is_no_error_where_sd_scripts_reads_it(answers):
    assert texts(answers["gui"], "error") == []
    unknown = "epoch, gpu_ids, noise_offset_type: flux_train_network.py knows none of these keys and ignores them"
    assert texts(answers["gui"], "warning", "options") == [unknown]


def test_stock_settings_are_examined_as_well(answers):
    assert texts(answers["stock"], "error") == []
    assert texts(answers["stock"], "ok", "data")[0].startswith("stock sd-scripts: 11 images, ")


def test_masks_and_what_is_held_out_are_examined(answers):
    assert texts(answers["masked"], "error") == []
    plan = texts(answers["masked"], "ok", "data")[0]
    assert "groups    3: 3 with K=3" in plan
    assert "held out  3 images for validation: 3 of 12 of dataset 1 (validation_split 0.25)" in plan
    assert texts(answers["masked"], "warning", "data") == []


def test_a_broken_set_up_hears_everything_at_once(answers):
    errors, warnings = texts(answers["broken"], "error"), texts(answers["broken"], "warning")
    for part in (
        "--fused_backward_pass excludes tuples",
        "fp8_base excludes LyCORIS DoRA",
        "00_astronaut.txt: the caption file is empty, which stops sd-scripts",
        'learning_rate = "1e-4": write a number',
        "--ae nope: ",
        "--t5xxl is not set, and flux_train_network.py cannot start without it",
        "lycoris.kohia: No module named 'lycoris.kohia'; pip install lycoris-lora",
    ):
        assert sum(part in text for text in errors) == 1, (part, errors)
    assert (
        "guidance_scal: flux_train_network.py knows no such key and ignores it; did you mean guidance_scale?"
        in warnings
    )


def test_buckets_that_the_script_would_refuse(answers):
    (error,) = texts(answers["odd"], "error")
    assert error.startswith("flux_train_network.py wants bucket_reso_steps that are a multiple of 32: set 64")


def test_a_key_in_the_wrong_table_of_a_dataset_is_named_with_its_place(answers):
    (error,) = texts(answers["misplaced"], "error")
    place = "datasets.1.subsets.1.max_bucket_reso"
    assert error.endswith(
        f"misplaced/dataset.toml: {place}: sd-scripts knows no such key there; leave it out, or move it to [general] "
        "or [[datasets]]"
    )


def test_a_setting_of_a_wrong_type_is_not_said_of_the_dataset(answers):
    first, second = texts(answers["typed"], "error")
    assert first == 'caption_dropout_rate = "0.1": write a number'
    assert "validation_split = 0: write it with a point: 0.0" in second and "--dataset_config" not in second


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("shuffled", "flux_train_network.py: when caching Text Encoder output, either caption_dropout_rate, shuffle"),
        ("shuffled whole", "cache_text_encoder_outputs excludes what changes captions"),
        ("cropped", "cache_latents excludes color_aug and random_crop"),
    ],
)
def test_what_cannot_be_cached_is_said_as_the_script_would_say_it(answers, name, said):
    (error,) = texts(answers[name], "error", "data")
    assert error.startswith(said)


def test_a_scheduler_that_cannot_be_made_is_said_with_the_script_s_own_words(answers):
    (error,) = texts(answers["warmed up"], "error", "optimizer")
    assert error.startswith("lr_scheduler = constant, lr_warmup_steps = 5: ValueError: ") and "Set None or 0" in error


def test_the_parser_s_own_words(answers):
    (error,) = texts(answers["refused"], "error", "options")
    assert error.endswith("error: argument --seed: invalid int value: 'many'")


@pytest.mark.parametrize("script", OTHERS)
def test_other_doors_configs_are_examined(answers, script):
    answer = answers[script]
    assert any(text.startswith(f"{script} reads them") for text in texts(answer, "ok", "options"))
    assert "4: 3 with K=3, 1 with K=2" in texts(answer, "ok", "data")[0]
    assert {f["subject"] for f in answer if f["level"] == "error"} == {"models"}
    assert "--pretrained_model_name_or_path no.pt: " in texts(answer, "error", "models")[0]
