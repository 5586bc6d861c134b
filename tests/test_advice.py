"""Warnings about captions, DoRA and TOML, and refusals of forks: all from words and files alone."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from sga_kohya import SgaError
from sga_kohya.config import SgaConfig
from sga_kohya.hosts.sd_scripts.advice import advice
from sga_kohya.hosts.sd_scripts.checkout import TESTED, find_checkout
from sga_kohya.hosts.sd_scripts.checks import check, problems

from . import stub_host

LOOP = """
for batch in loader:
    with accelerator.accumulate(model):
        accelerator.backward(loss)
"""


def folder(tmp_path: Path, *files: str, name: str = "1_macro") -> Path:
    """Images and captions; a caption's text is its own name, or nothing for a name that begins with `empty`."""
    path = tmp_path / name
    path.mkdir(parents=True, exist_ok=True)
    for file in files:
        (path / file).write_text("" if file.startswith("empty") and not file.endswith(".png") else file)
    return path


def dataset(tmp_path: Path, path: Path, more: str = "") -> dict[str, object]:
    file = tmp_path / "d.toml"
    file.write_text(f'[[datasets]]\n[[datasets.subsets]]\nimage_dir = "{path}"\ncaption_extension = ".txt"\n{more}\n')
    return {"dataset_config": str(file), "max_data_loader_n_workers": 2}


def test_a_sound_dataset_gets_no_advice(tmp_path):
    options = dataset(tmp_path, folder(tmp_path, "a.png", "a.txt", "b.jpg", "b.txt"))
    assert list(advice(options)) == [] and list(problems(options, SgaConfig())) == []


def test_what_the_dataset_s_file_goes_before_is_said(tmp_path):
    options = dataset(tmp_path, folder(tmp_path, "a.png", "a.txt"))
    path = Path(str(options["dataset_config"]))
    asked = options | {"train_batch_size": 4, "reg_data_dir": "reg"}
    (regularised,) = advice(asked)
    assert regularised.startswith("reg_data_dir is not read beside --dataset_config")
    path.write_text(path.read_text().replace("[[datasets]]", "[[datasets]]\nbatch_size = 1", 1))
    size, _ = advice(asked)
    assert size == (
        f"train_batch_size = 4 is not read, because {path} has batch_size = 1: set it there; "
        "`python -m sga_kohya.hsd PHOTOS OUT --batch_size 4` writes it"
    )
    assert list(advice(options | {"train_batch_size": 1})) == []
    path.write_text("[general]\nbatch_size = 4\n" + path.read_text().replace("batch_size = 1", ""))
    assert list(advice(options | {"train_batch_size": 4})) == []
    assert list(advice(options | {"train_batch_size": "2"}))[0].endswith("--batch_size 2` writes it")


def test_an_empty_caption_file_is_named_and_refused(tmp_path):
    path = folder(tmp_path, "a.png", "a.txt", "empty.png", "empty.txt", "empty2.png", "empty2.txt")
    options = dataset(tmp_path, path)
    with pytest.raises(SgaError, match=rf"{path / 'empty.txt'} and 1 more: the caption file is empty, which stops"):
        check(options, SgaConfig())
    check(options, SgaConfig(enabled=False))


def masked(tmp_path: Path, images: dict[str, int], masks: dict[str, int], more: str = "") -> dict[str, object]:
    """Square images and masks, name -> side; masked_loss is set."""
    for name, files in (("1_macro", images), ("masks", masks)):
        (tmp_path / name).mkdir(exist_ok=True)
        for file, side in files.items():
            Image.new("L", (side, side)).save(tmp_path / name / file)
            (tmp_path / "1_macro" / file).with_suffix(".txt").write_text("a cat")
    more = f'conditioning_data_dir = "{tmp_path / "masks"}"\nenable_bucket = true\n{more}'
    return dataset(tmp_path, tmp_path / "1_macro", more) | {"masked_loss": True}


def test_masks_that_fit_are_no_problem(tmp_path):
    options = masked(tmp_path, {"a.png": 8, "b.jpg": 9}, {"a.jpg": 8, "b.png": 9, "extra.png": 7})
    assert list(problems(options, SgaConfig())) == [] == list(advice(options))


@pytest.mark.parametrize(
    ("masks", "changes", "message"),
    [
        ({"a.png": 8}, {}, r"masks: 1 of 2 images of .*1_macro have no mask, such as b.png: add one of the same name"),
        ({"a.png": 8, "b.png": 7}, {}, r"masks: 1 masks are not of their image's width and height, .* that of b.png"),
        ({"a.png": 8, "b.png": 8}, {"masked_loss": False}, r"knows mask images only with masked_loss = true: set it"),
    ],
)
def test_masks_that_would_stop_the_host_are_named_before_it_starts(tmp_path, masks, changes, message):
    options = masked(tmp_path, {"a.png": 8, "b.png": 8}, masks) | changes
    with pytest.raises(SgaError, match=message):
        check(options, SgaConfig())
    check(options, SgaConfig(enabled=False))


def test_without_buckets_masks_are_resized_and_may_be_of_any_size(tmp_path):
    options = masked(tmp_path, {"a.png": 8}, {"a.png": 7}, "enable_bucket = false")
    text = Path(options["dataset_config"]).read_text().replace("enable_bucket = true\n", "")
    Path(options["dataset_config"]).write_text(text)
    assert list(problems(options, SgaConfig())) == []


def test_a_folder_of_masks_that_is_not_there_is_named(tmp_path):
    options = masked(tmp_path, {"a.png": 8}, {})
    (tmp_path / "masks").rmdir()
    (text,) = problems(options, SgaConfig())
    assert text.startswith(f"conditioning_data_dir {tmp_path / 'masks'}: ") and text.endswith("correct the path")


def test_masked_loss_without_any_mask_is_a_warning(tmp_path):
    plain = dataset(tmp_path, folder(tmp_path, "a.png", "a.txt")) | {"masked_loss": True}
    (text,) = advice(plain)
    assert text.startswith("masked_loss does nothing: no subset has mask images (conditioning_data_dir)")
    assert list(advice(dataset(tmp_path, tmp_path / "1_macro", "alpha_mask = true") | {"masked_loss": True})) == []


def test_a_blank_first_line_is_no_caption(tmp_path):
    path = folder(tmp_path, "a.png")
    (path / "a.txt").write_text("\na cat\n")
    (text,) = advice(dataset(tmp_path, path))
    assert text == f"{path / 'a.txt'}: the first line is blank, and sd-scripts reads only that one"


def test_a_caption_that_is_not_utf_8_is_named_before_sd_scripts_stops_at_it(tmp_path):
    path = folder(tmp_path, "a.png", "b.png", "c.png", "c.txt")
    (path / "a.txt").write_bytes("zoé".encode("cp1252"))
    (path / "b.txt").write_bytes("zoe".encode("utf-16"))
    options = dataset(tmp_path, path)
    (text,) = problems(options, SgaConfig())
    assert text.startswith(f"{path / 'a.txt'} and 1 more: the caption is not UTF-8, which stops sd-scripts. In your")
    assert list(advice(options)) == [], "said once"


def test_captions_that_sd_scripts_reads_otherwise_than_their_owner_are_named(tmp_path):
    path = folder(tmp_path, *(f"{name}.png" for name in "abcd"))
    for name, data in {
        "a": "zoé".encode("utf-8-sig"),
        "b": "z\ufffd".encode(),
        "c": b"z\0o\0",
        "d": b"zo\xc3\xa9",
    }.items():
        (path / f"{name}.txt").write_bytes(data)
    options = dataset(tmp_path, path)
    assert list(problems(options, SgaConfig())) == []
    mark, lost = advice(options)
    assert mark.startswith(f"{path / 'a.txt'}: begins with a byte order mark, which sd-scripts takes for a character")
    assert lost.startswith(
        f"{path / 'b.txt'} and 1 more: holds U+FFFD at 1, where another program has lost a character"
    )


def test_lines_that_sd_scripts_does_not_read_are_said_unless_it_was_told_to(tmp_path):
    path = folder(tmp_path, "a.png", "b.png", "b.txt")
    (path / "a.txt").write_text("a cat\na cat that sleeps\n")
    (text,) = advice(dataset(tmp_path, path))
    assert text.startswith(f"{path / 'a.txt'}: several lines, of which sd-scripts reads the first")
    assert list(advice(dataset(tmp_path, path, "enable_wildcard = true"))) == []
    assert list(advice(dataset(tmp_path, path) | {"enable_wildcard": True})) == []
    (path / "a.txt").write_text("\na cat\n")
    assert list(advice(dataset(tmp_path, path, "enable_wildcard = true"))) == [], "it passes over blank lines then"


def test_sample_prompts_that_are_not_there_are_said_before_the_hours_until_they_are_read(tmp_path):
    options = dataset(tmp_path, folder(tmp_path, "a.png", "a.txt"))
    gone = tmp_path / "gone.txt"
    with pytest.raises(SgaError, match=f"--sample_prompts {gone}: .* does not exist; correct the path, or leave the"):
        check(options | {"sample_prompts": str(gone)}, SgaConfig())
    check(options | {"sample_prompts": ""}, SgaConfig())


@pytest.mark.parametrize(
    ("name", "data", "refused", "warned"),
    [
        ("p.txt", "zoé".encode("cp1252"), "not UTF-8, which stops sd-scripts", ""),
        ("p.txt", "# zoé".encode("utf-8-sig"), "", "begins with a byte order mark"),
        ("p.json", "[]".encode("utf-8-sig"), "a byte order mark in front stops sd-scripts", ""),
        ("p.txt", "zoé".encode(), "", ""),
    ],
)
def test_sample_prompts_are_looked_at_before_the_hours_until_they_are_read(tmp_path, name, data, refused, warned):
    (tmp_path / name).write_bytes(data)
    options = dataset(tmp_path, folder(tmp_path, "a.png", "a.txt")) | {"sample_prompts": str(tmp_path / name)}
    for texts, wanted in ((list(problems(options, SgaConfig())), refused), (list(advice(options)), warned)):
        assert len(texts) == bool(wanted) and (not wanted or wanted in texts[0])


@pytest.mark.skipif(sys.platform == "win32", reason="such names cannot exist there")
def test_the_name_of_a_file_cannot_forge_a_warning(tmp_path):
    path = folder(tmp_path, "a.txt", "a.png", "b\n  warning: \x1b[1mmine.png")
    (text,) = advice(dataset(tmp_path, path))
    assert "such as b\\n  warning: \\x1b[1mmine.png" in text and "\n" not in text


def test_a_name_of_five_fields_takes_another_image_s_caption(tmp_path):
    path = folder(tmp_path, "cat.txt", "cat_1_2_3_4.png", "dog_1_2_3_4.png", "dog_1_2_3_4.txt")
    (text,) = advice(dataset(tmp_path, path))
    assert text.startswith(f"{path / 'cat_1_2_3_4.png'}: no caption of its own, so sd-scripts takes that of ")
    assert f"{path / 'cat.txt'}: it drops the last 4 fields" in text and "Write cat_1_2_3_4.txt" in text


def test_missing_captions_are_counted_and_another_extension_is_found(tmp_path):
    path = folder(tmp_path, "a.png", "a.txt", "b.png", "c.png")
    (text,) = advice(dataset(tmp_path, path))
    assert f"{path}: 2 of 3 images have no .txt file and train with an empty prompt, such as b.png" in text
    other = folder(tmp_path, "a.png", "a.caption", name="1_micro")
    (text,) = advice(dataset(tmp_path, other))
    assert 'There are .caption files: set caption_extension = ".caption"' in text


def test_a_class_instead_of_captions_is_meant_unless_one_was_forgotten(tmp_path):
    options = {"train_data_dir": str(tmp_path), "caption_extension": "txt"}
    path = folder(tmp_path, "a.png", "b.png", name="3_sks cat")
    assert list(advice(options)) == []
    (path / "a.txt").write_text("a cat")
    (text,) = advice(options)
    assert "1 of 2 images have no .txt file and train with 'sks cat', such as b.png" in text


def test_the_default_extension_of_captions_is_sd_scripts_own(tmp_path):
    folder(tmp_path, "a.png", "a.txt", "b.png", "b.caption", name="1_micro")
    (text,) = advice({"train_data_dir": str(tmp_path)})
    assert "1 of 2 images have no .caption file" in text and "There are .txt files" in text


@pytest.mark.parametrize(
    ("lines", "workers", "warned"),
    [
        ('custom_attributes = { granularity = "macro" }', 2, True),
        ('custom_attributes = { granularity = "macro" }', None, True),
        ('custom_attributes = { granularity = "macro" }', 0, False),
        ('[datasets.subsets.custom_attributes]\ngranularity = "macro"', 2, False),
    ],
)
def test_inline_attributes_cannot_reach_a_worker(tmp_path, lines, workers, warned):
    options = dataset(tmp_path, folder(tmp_path, "a.png", "a.txt"), lines) | {"max_data_loader_n_workers": workers}
    texts = list(advice(options))
    assert len(texts) == warned
    assert not warned or '[datasets.subsets.custom_attributes] and then granularity = "macro"' in texts[0]


@pytest.mark.parametrize(
    ("arguments", "warned"),
    [
        (["algo=lora", "dora_wd=True"], True),
        (["dora_wd=True", "wd_on_output=True"], True),
        (["dora_wd=True", "wd_on_output=False"], False),
        (["algo=lora"], False),
        (None, False),
    ],
)
def test_dora_of_the_output_axis_looks_different_in_comfyui(arguments, warned):
    texts = list(advice({"network_args": arguments}))
    assert len(texts) == warned and (not warned or 'add "wd_on_output=False" to network_args' in texts[0])


def test_every_problem_is_found_at_once(tmp_path):
    options = {"fused_backward_pass": True, "fp8_base": True, "network_args": ["dora_wd=True"], "train_data_dir": "/no"}
    found = list(problems(options, SgaConfig()))
    assert [text.split(":")[0] for text in found] == [
        "--fused_backward_pass excludes tuples",
        "fp8_base excludes LyCORIS DoRA (dora_wd=True)",
        "--train_data_dir /no",
    ]


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        (["algo=locon"], True),
        (["algo=lokr", "bypass_mode=False"], True),
        (["algo=lokr", "bypass_mode = True"], False),
        (["bypass_mode=True", "dora_wd=True"], True),  # which would train no DoRA, in silence
    ],
)
def test_lycoris_needs_its_bypass_over_weights_of_8_bits(arguments, refused):
    options = {"network_module": "lycoris.kohya", "network_args": arguments}
    for name in ("fp8_base", "fp8_base_unet"):
        assert sum("excludes LyCORIS" in text for text in problems({**options, name: True}, SgaConfig())) == refused
    other = {"network_module": "networks.lora_flux", "fp8_base": True, "network_args": arguments[:1]}
    assert not [text for given in (options, other) for text in problems(given, SgaConfig()) if "fp8_base" in text]


@pytest.mark.parametrize(
    ("loop", "name"),
    [
        ("edm2_loss_weighting = 1\nwith sync():\n    accelerator.backward(loss)", "67372a/sd-scripts or a fork of it"),
        (f"{LOOP}    if args.semantic_group:\n        accelerator.backward(loss)", "okdsf/KohyaTest"),
        ("loss.backward()", "somebody/trainer"),
    ],
)
def test_a_fork_with_its_own_loop_is_refused_by_name(tmp_path, loop, name):
    root = stub_host.write(tmp_path, train_network=loop)
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text('[remote "origin"]\n\turl = https://github.com/somebody/trainer.git\n')
    with pytest.raises(SgaError, match=f"is {name}, not kohya-ss/sd-scripts: train_network.py has a training loop"):
        find_checkout(str(root)).script("flux_train_network.py")


def test_a_fork_that_kept_the_loop_is_welcome(tmp_path):
    root = stub_host.write(tmp_path, train_network=LOOP, flux_train=LOOP)
    assert find_checkout(str(root)).script("flux_train.py") == root / "flux_train.py"
    (root / "flux_train.py").write_text(LOOP.replace("accelerator.backward", "pass\n    loss.backward"))
    with pytest.raises(SgaError, match="flux_train.py has a training loop of its own"):
        find_checkout(str(root)).script("flux_train.py")


def test_a_script_of_another_version_is_missing_and_said_so(tmp_path):
    root = stub_host.write(tmp_path)
    with pytest.raises(SgaError, match=f"has no anima_train.py; tested versions of sd-scripts are {TESTED}"):
        find_checkout(str(root)).script("anima_train.py")
