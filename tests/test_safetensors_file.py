"""Headers of .safetensors files: those of safetensors itself, and those that are damaged or were never any."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sga_kohya.errors import SgaError
from sga_kohya.kit.safetensors_file import METADATA, is_whole, read_header, tensor_shapes


@pytest.fixture
def model(tmp_path) -> Path:
    file = tmp_path / "model.safetensors"
    tensors = {"a": np.zeros((2, 3), np.float32), "b": np.zeros((0, 4), np.float16), "c": np.float32(1.0)}
    save_file(tensors, file, {"ss_epoch": "3"})
    return file


def write(file: Path, header: object) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text)


def test_names_shapes_and_metadata_are_those_that_safetensors_wrote(model):
    assert read_header(model)[METADATA] == {"ss_epoch": "3"}
    assert tensor_shapes(model) == {"a": [2, 3], "b": [0, 4], "c": []}
    assert is_whole(model)


def test_a_file_without_metadata_has_none(tmp_path):
    save_file({"a": np.zeros(1)}, tmp_path / "a.safetensors")
    assert read_header(tmp_path / "a.safetensors")[METADATA] == {}


@pytest.mark.parametrize("kept", [0, 7, 8, 40, -1])
def test_a_file_that_is_cut_short_is_not_whole(model, kept):
    model.write_bytes(model.read_bytes()[:kept])
    assert not is_whole(model)
    if kept >= 0:  # the last byte is a tensor's, and the header above it is all there
        for read in (read_header, tensor_shapes):
            with pytest.raises(SgaError, match="model.safetensors: no safetensors file, or cut short; download it"):
                read(model)


@pytest.mark.parametrize(
    "header", [b"[" * 100_000, b"\xff", [], {METADATA: []}, {METADATA: {"a": 1}}], ids=["deep", "bytes", *"123"]
)
def test_a_header_of_another_form_is_one_error(tmp_path, header):
    file = tmp_path / "x.safetensors"
    write(file, header)
    assert not is_whole(file)
    with pytest.raises(SgaError, match="no safetensors file"):
        read_header(file)


@pytest.mark.parametrize("entry", [3, {}, {"shape": 3}, {"shape": ["wide"]}, {"shape": [1], "data_offsets": [4]}])
def test_a_tensor_that_is_not_described_is_one_error(tmp_path, entry):
    write(tmp_path / "x.safetensors", {"a": entry})
    assert not is_whole(tmp_path / "x.safetensors")
    if entry != {"shape": [1], "data_offsets": [4]}:
        with pytest.raises(SgaError, match="a tensor in it has no shape"):
            tensor_shapes(tmp_path / "x.safetensors")


def test_what_is_no_safetensors_by_its_name_has_no_shapes(tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"")
    assert tensor_shapes(tmp_path / "x.ckpt") == tensor_shapes(tmp_path / "none.safetensors") == {}
