"""Where a sample's granularity and group come from, and in which order."""

import hashlib
import json
from pathlib import Path

import pytest

from sga_kohya.errors import SgaError
from sga_kohya.granularity import Identifier, Identity, misspelled


def identify(*images, **options) -> list[Identity]:
    pairs = [(Path(i), {}) if isinstance(i, str) else (Path(i[0]), i[1]) for i in images]
    return Identifier(**options).identify(pairs)


def test_folder_names():
    found = identify("/d/1_macro/a.png", "/d/10_meso/a.png", "/d/micro/a.png", "/d/1_photos/a.png")
    assert found == [Identity("macro", "a"), Identity("meso", "a"), Identity("micro", "a"), Identity(None, None)]


def test_suffixes_and_those_of_other_tools():
    found = identify("/d/x/a_macro.png", "/d/x/a_halfbody.png", "/d/x/a_head.png", "/d/x/b_full.png", "/d/x/c.png")
    assert found[:3] == [Identity("macro", "a"), Identity("meso", "a"), Identity("micro", "a")]
    assert found[3:] == [Identity("macro", "b"), Identity(None, None)]


def test_the_attribute_wins_over_the_folder_and_the_folder_over_the_suffix():
    found = identify(("/d/1_macro/a_micro.png", {"granularity": "meso"}), "/d/1_macro/b_micro.png")
    assert found == [Identity("meso", "a_micro"), Identity("macro", "b_micro")]


def test_an_unknown_attribute_does_not_hide_the_folder():
    assert identify(("/d/1_macro/a.png", {"granularity": "makro"})) == [Identity("macro", "a")]


def test_two_folders_with_the_same_stems_are_kept_apart():
    images = ["/cats/1_macro/1.png", "/dogs/1_macro/1.png", "/cats/1_micro/1.png", "/dogs/1_meso/1.png"]
    cats, dogs, cats_too, dogs_too = identify(*images)
    assert cats.group == cats_too.group != dogs.group == dogs_too.group


def test_the_same_image_in_two_datasets_is_one_slice():
    assert len({i.group for i in identify("/d/1_macro/a.png", "/d/1_macro/a.png", "/d/1_micro/a.png")}) == 1


def test_labels_of_one_s_own():
    found = identify("/d/1_body/a.png", "/d/1_face/a.png", "/d/1_macro/a.png", labels=("body", "face"))
    assert [i.granularity for i in found] == ["body", "face", None]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = [
        {"file": "1_macro/a.png", "granularity": "macro", "group": "a"},
        {"file": "1_micro/a-2.png", "granularity": "micro", "group": "a"},
        {"file": None, "granularity": "meso", "group": "a", "reason": "too small"},
        {"file": "1_macro/odd\u2028name.png", "granularity": "macro", "group": "odd"},
    ]
    path = tmp_path / "sga_manifest.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("named", [False, True])
def test_the_manifest_knows_groups_that_stems_do_not(manifest, named):
    root = manifest.parent
    images = [str(root / "1_macro/a.png"), str(root / "1_micro/a-2.png"), str(root / "1_macro/odd\u2028name.png")]
    first, second, odd = identify(*images, manifest_path=manifest if named else None)
    assert (first.granularity, second.granularity) == ("macro", "micro")
    assert first.group == second.group != odd.group


def test_a_manifest_made_on_windows_is_read_here(tmp_path):
    path = tmp_path / "sga_manifest.jsonl"
    row = {"file": r"1_macro\a.png", "granularity": "macro", "group": "g"}
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(row).encode() + b"\r\n")
    (found,) = identify(str(tmp_path / "1_macro" / "a.png"), manifest_path=path)
    assert found == Identity("macro", f"{tmp_path}::g")


def test_a_manifest_in_another_encoding_is_named(tmp_path):
    path = tmp_path / "sga_manifest.jsonl"
    path.write_bytes('{"file": "é.png"}'.encode("cp1252"))
    with pytest.raises(SgaError, match="sga_manifest.jsonl: not UTF-8"):
        identify(str(tmp_path / "a.png"))


def test_a_broken_manifest_names_its_line(tmp_path):
    (tmp_path / "sga_manifest.jsonl").write_text('{"file": null}\n{"file": "x.png"}\n')
    with pytest.raises(SgaError, match=r"sga_manifest.jsonl, line 2: .*KeyError\('granularity'\)"):
        identify(str(tmp_path / "1_macro/x.png"))


@pytest.mark.parametrize(
    ("attributes", "warning"),
    [
        ({}, None),
        ({"granularity": "macro"}, None),
        ({"diff_output_preservation": True}, None),
        ({"granularity": "mirco"}, 'did you mean "micro"'),
        ({"granularity": "Macro"}, 'did you mean "macro"'),
        ({"granularty": "macro"}, 'unknown attribute "granularty": did you mean "granularity"'),
    ],
)
def test_misspelled(attributes, warning):
    found = misspelled(attributes, ("macro", "meso", "micro"))
    assert found is None if warning is None else warning in found


def test_the_digest_of_each_manifest_that_was_read_goes_into_the_header(tmp_path):
    image = tmp_path / "1_macro" / "a.png"
    image.parent.mkdir()
    manifest = tmp_path / "sga_manifest.jsonl"
    manifest.write_text('{"file": "1_macro/a.png", "granularity": "macro", "group": "a"}\n')
    identifier = Identifier()
    assert identifier.metadata() == {}
    identifier.identify([(image, {})])
    assert identifier.metadata() == {"ss_sga_manifest_sha256": hashlib.sha256(manifest.read_bytes()).hexdigest()}
