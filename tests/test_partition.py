"""sga_kohya.partition: labels for the images of an existing dataset, in a TOML and a manifest."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import toml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.granularity import Identifier
from sga_kohya.kit.files import LOCK
from sga_kohya.partition.__main__ import main
from sga_kohya.partition.criteria import by_chance, equal_parts, frequency, high_frequency_share
from sga_kohya.partition.topics import by_clusters, by_keywords, tf_idf


def write_image(path: Path, blur: float, size: tuple[int, int] = (256, 192), seed: int = 0, caption: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.float32)
    if blur:
        pixels = cv2.normalize(cv2.GaussianBlur(pixels, (0, 0), blur), None, 0, 255, cv2.NORM_MINMAX)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    if caption:
        path.with_suffix(".txt").write_text(caption)


@pytest.fixture
def folder(tmp_path) -> Path:
    """kohya's train_data_dir: 2_cats and 1_dogs, six images, blurred more and more."""
    for i in range(6):
        name = ("2_cats", "1_dogs")[i % 2]
        write_image(tmp_path / "data" / name / f"{i}.png", blur=i, seed=i, caption=f"sks, {name[2:]}, blur {i}")
    return tmp_path / "data"


def rows_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "sga_manifest.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_by_frequency_from_blurred_to_sharp(folder, tmp_path, capsys):
    before, out = contents(folder), tmp_path / "out"
    assert main([str(folder), str(out), "--by", "frequency", "--labels", "low,mid,high"]) == 0
    labels = {Path(row["file"]).stem: row["granularity"] for row in rows_of(out)}
    assert labels == {"5": "low", "4": "low", "3": "mid", "2": "mid", "1": "high", "0": "high"}
    assert contents(folder) == before and sorted(p.name for p in out.iterdir() if p.name != LOCK) == [
        "dataset.toml",
        "sga_manifest.jsonl",
    ]
    written = toml.loads((out / "dataset.toml").read_text())
    subsets = written["datasets"][0]["subsets"]
    assert [(s["image_dir"], s["num_repeats"], s["class_tokens"]) for s in subsets] == [
        (str(folder / "1_dogs"), 1, "dogs"),
        (str(folder / "2_cats"), 2, "cats"),
    ]
    assert subsets[0]["caption_extension"] == ".txt" and written["datasets"][0]["resolution"] == 1024
    said = capsys.readouterr().out
    options = "--sga_granularities low,mid,high --sga_timestep_shift low:0.5,mid:0,high:-0.5"
    assert f"--sga_manifest {out}/sga_manifest.jsonl {options}" in said


def test_training_reads_the_labels_and_every_image_is_a_group(folder, tmp_path):
    out = tmp_path / "out"
    main([str(folder), str(out), "--by", "frequency"])
    images = sorted(folder.rglob("*.png"))
    identities = Identifier(manifest_path=out / "sga_manifest.jsonl").identify([(path, {}) for path in images])
    assert Counter(identity.granularity for identity in identities) == {"macro": 2, "meso": 2, "micro": 2}
    assert len({identity.group for identity in identities}) == 6


@pytest.mark.parametrize(("group_by", "groups"), [("stem", {"a", "b"}), ("folder", {"x", "y"})])
def test_siblings_by_stem_or_folder(tmp_path, group_by, groups):
    for i, name in enumerate(("x/a", "x/b", "y/a", "y/b")):
        write_image(tmp_path / "data" / f"1_{name}.png", blur=i)
    main([str(tmp_path / "data"), str(tmp_path / "out"), "--by", "random", "--labels", "a,b", "--group_by", group_by])
    assert {row["group"].rpartition("_")[2] for row in rows_of(tmp_path / "out")} == groups


def test_by_resolution_reads_headers_and_keeps_equal_sizes_together(tmp_path, capsys):
    for i, side in enumerate((64, 64, 64, 64, 128, 200)):
        write_image(tmp_path / "data" / f"{i}.png", blur=0, size=(side, side))
    main([str(tmp_path / "data"), str(tmp_path / "out"), "--by", "resolution"])
    assert [row["granularity"] for row in rows_of(tmp_path / "out")] == ["macro"] * 4 + ["meso", "micro"]
    assert "macro              4  0.004096 to 0.004096" in capsys.readouterr().out


def test_by_keywords_and_the_rest(folder, tmp_path):
    arguments = [str(folder), str(tmp_path / "out"), "--by", "caption", "--labels", "cat,other"]
    assert main([*arguments, "--keywords", "cat=cats,kitten"]) == 0
    assert {(Path(r["file"]).parent.name, r["granularity"]) for r in rows_of(tmp_path / "out")} == {
        ("2_cats", "cat"),
        ("1_dogs", "other"),
    }


def test_by_caption_topics_are_found(folder, tmp_path, capsys):
    assert main([str(folder), str(tmp_path / "out"), "--by", "caption", "--labels", "a,b"]) == 0
    topics = {(Path(row["file"]).parent.name, row["granularity"]) for row in rows_of(tmp_path / "out")}
    assert topics == {("1_dogs", "a"), ("2_cats", "b")}
    said = capsys.readouterr().out
    assert "a                  3  dogs" in said and "b                  3  cats" in said
    assert "--sga_timestep_shift a:0,b:0" in said, "topics have no order from coarse to fine"


def test_chance_is_seeded_and_even(folder, tmp_path):
    def labels(seed: int) -> list[str]:
        main([str(folder), str(tmp_path / "out"), "--by", "random", "--seed", str(seed)])
        return [row["granularity"] for row in rows_of(tmp_path / "out")]

    assert labels(1) == labels(1) and labels(1) != labels(2)
    assert Counter(labels(3)) == {"macro": 2, "meso": 2, "micro": 2}


def test_a_toml_keeps_its_settings_and_loses_only_granularities(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reg").mkdir()
    write_image(tmp_path / "reg" / "r.png", blur=0)
    (tmp_path / "my.toml").write_text(
        """
[general]
caption_extension = ".txt"
custom_attributes = { granularity = "macro" }
[[datasets]]
resolution = [768, 512]
batch_size = 3
[[datasets.subsets]]
image_dir = "data/2_cats"
num_repeats = 7
custom_attributes = { granularity = "micro", artist = "me" }
[[datasets.subsets]]
image_dir = "reg"
is_reg = true
"""
    )
    assert main(["my.toml", "out", "--by", "random", "--labels", "a,b,c"]) == 0
    written = toml.loads((tmp_path / "out" / "dataset.toml").read_text())
    (dataset,) = written["datasets"]
    assert written["general"] == {"caption_extension": ".txt"}
    assert (dataset["resolution"], dataset["batch_size"]) == ([768, 512], 3)
    cats, reg = dataset["subsets"]
    assert cats == {"image_dir": str(folder / "2_cats"), "num_repeats": 7, "custom_attributes": {"artist": "me"}}
    assert reg == {"image_dir": str(tmp_path / "reg"), "is_reg": True}
    assert {Path(row["file"]).parent.name for row in rows_of(tmp_path / "out")} == {"2_cats"}
    assert "2 granularities of the TOML itself are left out" in capsys.readouterr().out


def test_names_that_are_not_utf_8(folder, tmp_path, capsys):
    cats, out = folder / "2_cats", tmp_path / "out"
    odd = os.fsdecode(b"\xe9")
    try:
        (cats / "0.png").rename(cats / f"{odd}.png")
    except OSError:
        pytest.skip("this file system takes no such name")
    assert main([str(folder), str(out), "--by", "random"]) == 0
    assert str(cats / f"{odd}.png") in [row["file"] for row in rows_of(out)]
    cats.rename(folder / f"2_{odd}")
    assert main([str(folder), str(tmp_path / "other"), "--by", "random"]) == 2
    assert "the name is not UTF-8" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_an_unreadable_image_is_named_and_gets_no_label(folder, tmp_path, capsys):
    (folder / "2_cats" / "bad.png").write_bytes(b"no image")
    assert main([str(folder), str(tmp_path / "out"), "--by", "frequency"]) == 0
    assert len(rows_of(tmp_path / "out")) == 6
    assert "bad.png gets no label, it cannot be read" in capsys.readouterr().err


def test_captions_in_an_unknown_encoding_are_named_and_no_topic_is_made_of_them(folder, tmp_path, capsys):
    (folder / "2_cats" / "0.txt").write_bytes("zoé".encode("cp1252"))
    assert main([str(folder), str(tmp_path / "out"), "--by", "random"]) == 0
    assert f"1 captions cannot be read and stop sd-scripts, such as {folder / '2_cats' / '0.txt'}: not UTF-8" in (
        capsys.readouterr().out
    )
    arguments = [str(folder), str(tmp_path / "other"), "--by", "caption", "--labels", "a,b"]
    assert main(arguments) == 2 and "0.txt: not UTF-8" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    (folder / "2_cats" / "0.txt").write_bytes("zoé".encode("utf-16"))
    assert main(arguments) == 0, "a byte order mark says what it is"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{data}", "{out}", "--by", "random", "--labels", "a"], "--labels a: write two or more"),
        (["{data}", "{out}", "--by", "random", "--labels", "a,b c"], "--labels a,b c"),
        (["{data}", "{out}", "--by", "random", "--labels", "a,b,c,d,e,f,g"], "only 6 images for 7 labels"),
        (["{data}", "{out}", "--by", "resolution"], "only 1 different values for 3 labels"),
        (["{data}", "{out}", "--by", "caption", "--keywords", "meso=cats"], "captions hold no keyword, such as 'sks"),
        (["{data}", "{out}", "--by", "caption", "--keywords", "nano=cats"], "write LABEL=WORD,WORD with one of macro"),
        (["{data}", "{out}", "--by", "random", "--keywords", "meso=cats"], "--keywords is for --by caption"),
        (["{data}/none", "{out}", "--by", "random"], "no folder or TOML"),
        (["{out}", "{out}", "--by", "random"], "no images in"),
        (["{data}", "{data}", "--by", "random"], "dataset.toml was not written by sga_kohya.partition"),
    ],
)
def test_mistakes_end_in_one_line_and_nothing_is_written(folder, tmp_path, capsys, arguments, words):
    (folder / "dataset.toml").write_text("# mine")
    (tmp_path / "out").mkdir()
    places = {"data": folder, "out": tmp_path / "out"}
    before = contents(tmp_path)
    assert main([argument.format(**places) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("sga_kohya.partition: error: ") and error.count("\n") == 1
    assert contents(tmp_path) == before


def test_words_are_checked_without_torch():
    code = "import sys, sga_kohya.partition.__main__; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_high_frequency_share_of_known_pictures(tmp_path):
    x = np.arange(512)
    waves = {f: np.tile(127 + 100 * np.sin(2 * np.pi * f * x), (512, 1)).astype(np.float32) for f in (0.05, 0.4)}
    assert high_frequency_share(waves[0.05]) < 0.001 and high_frequency_share(waves[0.4]) > 0.999
    both = high_frequency_share(waves[0.05] + waves[0.4])
    assert both == pytest.approx(0.5, abs=0.01)
    assert high_frequency_share(np.full((100, 100), 50, np.float32)) == 0
    Image.fromarray((waves[0.4] * 257).astype(np.uint16)).save(tmp_path / "deep.png")
    assert frequency(tmp_path / "deep.png") > 0.9, "16 bits are not clipped to white"


@given(st.lists(st.integers(0, 30), min_size=1, max_size=200), st.integers(2, 5))
def test_parts_are_ordered_complete_and_keep_ties_together(values, count):
    if len(set(values)) < count:
        with pytest.raises(SgaError, match="different values"):
            equal_parts(values, count)
        return
    parts = equal_parts(values, count)
    assert set(parts) == set(range(count))
    assert all(
        p <= q for (v, p) in zip(values, parts, strict=True) for (w, q) in zip(values, parts, strict=True) if v <= w
    )
    if len(set(values)) == len(values):
        sizes = Counter(parts).values()
        assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 100), st.integers(2, 5), st.integers(0, 9))
def test_chance_deals_out_equal_parts(number, count, seed):
    if number < count:
        with pytest.raises(SgaError):
            by_chance(number, count, seed)
        return
    sizes = Counter(by_chance(number, count, seed))
    assert set(sizes) == set(range(count)) and max(sizes.values()) - min(sizes.values()) <= 1


def test_topics_of_captions():
    themes = (["a red sports car on a road", "old car in a garage", "car and truck on the road"],)
    themes += (["a bowl of noodle soup", "tomato soup in a bowl", "soup, bread, bowl", "hot soup"],)
    themes += (["snowy mountain peak", "mountain lake and snow"],)
    captions = [f"sks {text}" for theme in themes for text in theme]
    numbers, words = by_clusters(captions, 3, seed=0)
    assert numbers == [1] * 3 + [0] * 4 + [2] * 2, "largest first"
    assert "soup" in words[0] and "car" in words[1] and "mountain" in words[2]
    assert by_clusters(captions, 3, seed=0) == (numbers, words)
    _, vocabulary = tf_idf(captions)
    assert "sks" not in vocabulary, "what is in every caption tells nothing"
    with pytest.raises(SgaError, match="do not make 3 topics"):
        by_clusters(["same words"] * 9, 3, seed=0)


def test_keywords_match_whole_words_and_the_first_label_wins():
    captions = ["A Cat and a dog", "category theory", "two dogs"]
    assert by_keywords(captions, ["dog", "cat", "rest"], {"dog": ["dog", "dogs"], "cat": ["cat"]}) == [0, 2, 0]
