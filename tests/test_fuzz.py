"""Whatever stands in a setting or a file that users write: it is read, or there is one error; never a traceback."""

import json
from pathlib import Path

import pytest
import toml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sga_kohya.config import SgaConfig, option_names
from sga_kohya.errors import SgaError
from sga_kohya.granularity import Identifier, Manifest
from sga_kohya.hosts.sd_scripts.checkout import find_checkout
from sga_kohya.hosts.sd_scripts.folders import find_folders
from sga_kohya.kit.toml_file import parse_toml, read_toml
from sga_kohya.options import read_options
from sga_kohya.partition.dataset import read_dataset

KEYS = sorted(option_names())
MANY = settings(
    max_examples=400, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FEW = settings(MANY, max_examples=150)

WORDS = st.sampled_from(
    [
        *(
            "",
            " ",
            "true",
            "macro:1,meso:0",
            "macro:1,macro:2",
            "macro:1e999",
            "macro:",
            ":",
            ",",
            "macro,meso",
            "0",
            "-1",
        ),
        *(
            "nan",
            "inf",
            "1" * 400,
            "9" * 5000,
            "~nouser/x",
            "~",
            "a\0b",
            "x" * 5000,
            "/" * 300 + "x.png",
            "\ud800",
            "猫",
        ),
        *(
            "C:\\new\\table.png",
            "..",
            "a.png",
            "1_000",
            "0x10",
            "１２",
            "[",
            "{",
            "{macro = 2",
            "'",
            '"',
            "\\",
            "#",
            "=",
        ),
    ]
)
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([10**400, -(10**400), True, False, None]))
VALUES = st.recursive(
    st.one_of(WORDS, st.text(max_size=8), NUMBERS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def is_read_or_refused(call, *arguments) -> str:
    """The error's text, which one can read and print, or ""."""
    try:
        call(*arguments)
    except SgaError as error:
        assert len(str(error)) < 30_000 and "Traceback" not in str(error)
        return str(error)
    return ""


@MANY
@given(st.sampled_from(KEYS), VALUES)
@example("sga_granularities", [[1, 2], [3]])
@example("sga_timestep_shift", {"macro": 10**400})
@example("sga_manifest", "~nouser/x")
@example("sga_show_timesteps", "a\0b")
def test_any_value_of_any_key(key, value):
    is_read_or_refused(SgaConfig.from_options, {key: value})


@pytest.mark.parametrize("key", KEYS)
def test_a_number_that_python_itself_refuses_to_write(key):
    assert is_read_or_refused(SgaConfig.from_options, {key: int("f" * 5000, 16)})


@FEW
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4), st.lists(WORDS, max_size=3))
def test_any_words_of_a_command_line(options, more):
    argv = [word for key, value in options.items() if isinstance(value, str) for word in (f"--{key}", value)] + more
    is_read_or_refused(lambda: SgaConfig.from_options(read_options(argv)))


@FEW
@given(st.text(max_size=60) | st.builds(lambda k, v: f"{k} = {v}", st.sampled_from(KEYS), st.text(max_size=20)))
@example("sga_loss_weight = {macro = 2")
@example("a = " + "[" * 3000)
@example("a = " + "9" * 5000)
@example("[sga.a.b]\nsga_tuples = 1")
def test_any_toml(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    is_read_or_refused(lambda: SgaConfig.from_options(read_options(["--config_file", str(path)])))


@FEW
@given(st.binary(max_size=40))
@example("a = 'é'".encode("cp1252"))
@example("a = 1".encode("utf-16"))
def test_any_bytes_for_a_toml(tmp_path, content):
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    is_read_or_refused(read_toml, path)


NAMES = st.sampled_from(["file", "granularity", "group", "image_dir", "caption_extension", "class_tokens"])
ROWS = st.dictionaries(NAMES | st.text(max_size=3), VALUES, max_size=4)


@FEW
@given(st.lists(st.one_of(ROWS.map(lambda row: json.dumps(row).encode("utf-8", "replace")), st.binary(max_size=20))))
@example([b"[" * 5000])
@example(['{"file": "é"}'.encode("cp1252")])
@example([b'{"file": "a", "granularity": ["macro"], "group": {}}'])
@example([b'{"file": "\\u0000", "granularity": "macro", "group": "a"}'])
def test_any_manifest(tmp_path, lines):
    path = tmp_path / "sga_manifest.jsonl"
    path.write_bytes(b"\n".join(lines))
    is_read_or_refused(Manifest, path)
    is_read_or_refused(Identifier(manifest_path=path).identify, [(tmp_path / "a.png", {})])


SUBSETS = st.dictionaries(NAMES | st.sampled_from(["custom_attributes", "num_repeats", "is_reg"]), VALUES, max_size=3)
DATASETS = st.dictionaries(st.sampled_from(["subsets", "general"]), st.lists(SUBSETS, max_size=2) | VALUES)
CONFIGS = st.fixed_dictionaries(
    {"datasets": st.lists(DATASETS, max_size=2) | VALUES}, optional={"general": SUBSETS | VALUES}
)


@FEW
@given(CONFIGS)
@example({"datasets": [1]})
@example({"datasets": [{"subsets": {"image_dir": "x"}}]})
@example({"datasets": [{"subsets": [{"image_dir": "x" * 5000}]}]})
@example({"datasets": [{"subsets": [{"image_dir": ["x"], "caption_extension": "."}]}]})
def test_any_dataset_toml(tmp_path, monkeypatch, tables):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.toml").touch()
    for module in ("hosts.sd_scripts.folders", "partition.dataset"):
        monkeypatch.setattr(f"sga_kohya.{module}.read_toml", lambda *_: tables)
    is_read_or_refused(find_folders, {"dataset_config": "data.toml"})
    assert is_read_or_refused(read_dataset, Path("data.toml"), 512, 1)  # there is no image


@pytest.mark.parametrize("value", [True, ["a", "b"], "~nouser/x", "a\0b", "x" * 5000, 5])
@pytest.mark.parametrize("key", ["dataset_config", "train_data_dir", "config_file", "sd_scripts"])
def test_what_can_be_no_path_is_one_error(key, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [f"--{key}", *(value if isinstance(value, list) else [] if value is True else [str(value)])]
    call = {"sd_scripts": lambda: find_checkout(value), "config_file": lambda: read_options(words)}
    assert is_read_or_refused(call.get(key, lambda: find_folders({key: value})))


def test_what_toml_itself_writes_is_read_as_it_was():
    tables = {"a": "C:\\new\\table", "b": ["\\\\server\\new", "line\nbreak"], "c": {"d": 1.5, "é": False}}
    assert parse_toml(toml.dumps(tables), "x") == tables
