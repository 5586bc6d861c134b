"""Where granularity and group come from on musubi-tuner, what is said of its caches, and what hsd writes for it."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sga_kohya.hsd import HsdConfig, LevelConfig
from sga_kohya.hsd import run as cut
from sga_kohya.hsd.clips.labels import parse_labels

from .. import clips
from .conftest import GROUPS
from .test_flux_2 import MEMBERS, clipped, close, eq_6, of, recorded, steps


@pytest.fixture
def data(world_of, tuner, tmp_path) -> Path:
    """A copy of the tiny dataset, to change."""
    source, folder = world_of(tuner, "flux_2") / "flux_2", tmp_path / "data"
    shutil.copytree(source, folder)
    file = folder / "dataset_musubi.toml"
    file.write_text(file.read_text().replace(str(source), str(folder)))
    return folder


def flat(data: Path, folder: Path, name: str) -> None:
    """All slices in one folder of caches. name: of a slice, with {level} and {index}."""
    folder.mkdir()
    for index, level in MEMBERS.values():
        for file in (data / "cache" / level).glob(f"{index:02}_*"):
            stem = name.format(level=level, index=f"{index:02}")
            shutil.copy(file, folder / f"{stem}{file.name[2:]}")


def config(file: Path, *lines: str) -> Path:
    file.write_text("\n".join(["[[datasets]]", *lines, "resolution = 256", "batch_size = 2", "enable_bucket = true"]))
    return file


def test_rows_of_a_jsonl_file_say_granularity_and_group(run, data, tmp_path):
    flat(data, tmp_path / "flat", "{level}-{index}")
    rows = [
        {"image_path": f"/away/{level}-{index:02}.png", "caption": "x", "granularity": level, "group": f"g{index}"}
        for index, level in MEMBERS.values()
    ]
    jsonl = tmp_path / "rows.jsonl"
    jsonl.write_text("\n".join(map(json.dumps, rows)))
    dataset = config(tmp_path / "d.toml", f'image_jsonl_file = "{jsonl}"', f'cache_directory = "{tmp_path / "flat"}"')
    settings = {"dataset_config": dataset, "max_train_epochs": 1, "record": True}
    output = run({"door": "sga", "out": "on", **settings}, {"door": "stock", "out": "stock", **settings})
    assert "6: 3 with K=3, 2 with K=2, 1 with K=1" in output
    for step in steps(recorded(tmp_path, "on")):
        slices = [MEMBERS[number] for batch in of(step, "batch") for number in batch["ids"]]
        assert all({level for i, level in slices if i == index} == set(GROUPS[index]) for index, _ in slices)
        close(of(step, "step")[0]["grads"], clipped(eq_6(of(step, "batch"), of(step, "backward"))))


def test_groups_reach_over_datasets_and_equal_names_of_other_folders_are_no_siblings(run, data, tmp_path):
    """Each level is a dataset of its own, so what one of them alone shows is not enough."""
    text = (data / "dataset_musubi.toml").read_text()
    twice = tmp_path / "dogs"
    shutil.copytree(data, twice)
    tables = text.partition("[[datasets]]")[2].replace(str(data), str(twice))
    (tmp_path / "both.toml").write_text(f"{text}\n[[datasets]]{tables}")
    rows = []
    for level in ("macro", "micro"):
        jsonl = tmp_path / f"{level}.jsonl"
        jsonl.write_text(
            "\n".join(
                json.dumps({"image_path": f"/{level}/{file.stem}.png", "granularity": level, "group": file.stem[-1]})
                for file in sorted((data / f"1_{level}").glob("*.png"))
            )
        )
        rows.append(f'[[datasets]]\nimage_jsonl_file = "{jsonl}"\ncache_directory = "{data}/cache/{level}"\n')
    (tmp_path / "rows.toml").write_text("[general]\nresolution = 256\nenable_bucket = true\n" + "\n".join(rows))
    done = {"door": "sga", "max_train_steps": 1}
    output = run(
        {"out": "both", "dataset_config": tmp_path / "both.toml", **done},
        {"out": "rows", "dataset_config": tmp_path / "rows.toml", **done},
    )
    assert "12: 6 with K=3, 4 with K=2, 2 with K=1" in output, "not one group of two folders"
    assert "5: 5 with K=2" in output


def test_a_suffix_says_the_granularity_of_slices_in_one_folder(run, data, tmp_path):
    flat(data, tmp_path / "flat", "{index}_{level}")
    (tmp_path / "images").mkdir()
    for index, level in MEMBERS.values():
        (tmp_path / "images" / f"{index:02}_{level}.png").write_bytes(b"")
        (tmp_path / "images" / f"{index:02}_{level}.txt").write_text("x")
    folders = [f'image_directory = "{tmp_path / "images"}"', f'cache_directory = "{tmp_path / "flat"}"']
    dataset = config(tmp_path / "d.toml", *folders, 'caption_extension = ".txt"')
    output = run({"door": "sga", "out": "on", "dataset_config": dataset, "max_train_epochs": 1})
    assert "6: 3 with K=3, 2 with K=2, 1 with K=1" in output


def test_caches_that_do_not_fit_the_images_are_said(run, data):
    for file in (data / "cache" / "macro").glob("00_*"):
        file.unlink()  # never cached
    (data / "1_meso" / "01.png").unlink()  # removed since
    (data / "1_micro" / "99.png").write_bytes(b"")  # no caption
    output = run({"door": "sga", "out": "on", "dataset_config": data / "dataset_musubi.toml", "max_train_steps": 1})
    assert f"1 files of {data}/1_macro have no caches and do not train, such as 00" in output
    assert f"1 caches in {data}/cache/meso train, such as of 01" in output
    assert f"1 images of {data}/1_micro have no caption file and do not train, such as 99" in output


def test_what_the_dataset_toml_gets_wrong_is_said_with_its_place_and_remedy(run, data):
    file = data / "dataset_musubi.toml"
    file.write_text(file.read_text().replace("[[datasets]]", '[[datasets]]\nnum_repeats = "2"\nimage_dir = "x"', 1))
    output = run({"door": "sga", "out": "on", "dataset_config": file, "status": 2})
    assert f'--dataset_config {file}: datasets.1.num_repeats = "2": write a whole number' in output
    assert (
        "datasets.1.image_dir: musubi-tuner knows no such key there; did you mean image_directory?" in output
        and "Traceback" not in output
    )


def test_without_any_cache_the_error_says_what_to_run(run, data):
    shutil.rmtree(data / "cache")
    output = run({"door": "sga", "out": "on", "dataset_config": data / "dataset_musubi.toml", "status": 2})
    assert "no training items: cache latents and text first" in output


def test_a_resumed_run_says_which_caches_are_others_since_its_state_was_saved(run, data, tmp_path):
    common = {"door": "sga", "dataset_config": data / "dataset_musubi.toml", "max_train_epochs": 2}
    run({"out": "before", "save_state": True, "save_every_n_steps": 2, **common})
    (text,) = (data / "cache" / "macro").glob("00_*_te.safetensors")
    os.utime(text, (1, 1))  # written again
    state = tmp_path / "before" / "tiny-step00000002-state"
    output = run({"out": "after", "resume": state, **common})
    assert f"1 image is edited (macro/{text.name})" in output


def test_keys_that_musubi_tuner_does_not_know_are_said(run, tmp_path):
    file = tmp_path / "my.toml"
    file.write_text("learning_rat = 1e-4\nmixed_precision = 'bf16'\nsga_groups_per_step = 1\nseed = 'x'\n")
    output = run({"door": "sga", "out": "on", "config_file": file, "max_train_steps": 1})
    assert (
        "learning_rat: flux_2_train_network.py knows no such key and ignores it; did you mean learning_rate?" in output
    )
    assert 'seed = "x": write a whole number' in output


def test_the_real_reader_takes_what_hsd_writes_and_resizes_no_slice(server_of, tuner, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for number, (width, height) in enumerate([(900, 700), (1024, 512), (500, 900)]):
        pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(photos / f"p{number}.png")
        (photos / f"p{number}.txt").write_text("a caption")
    levels = tuple(LevelConfig(name, 512, tau_up=4.0) for name in ("macro", "meso", "micro"))
    cut(photos, out, HsdConfig(levels, near_duplicates=-1))
    answer = tmp_path / "answer.json"
    server_of(tuner).do(tmp_path, [{"check": "buckets", "out": answer, "dataset": out / "dataset_musubi.toml"}])
    found = json.loads(answer.read_text())
    assert {name for name, *_ in found} == {"f2d", "wan", "qi", "zi", "ho1"} and len(found) == 5 * len(
        list(out.glob("1_*/*.png"))
    )
    assert all(original == cached == bucket for _, original, cached, bucket in found)


def test_the_real_caching_and_training_take_clips_as_hsd_writes_them_frame_by_frame(server_of, tuner, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name, size, frames in (("a", (320, 192), 40), ("b", (192, 320), 30), ("c", (640, 160), 20)):
        clips.write(photos / f"{name}.mp4", frames, 16, size, lambda n, size=size: clips.picture(n, size))
        (photos / f"{name}.txt").write_text("a red square")
    levels = tuple(LevelConfig(name, 256, tau_up=4.0, min_detail=0) for name in ("macro", "meso", "micro"))
    labels = parse_labels(["long:17:128", "short:9:192", "still:1:256"])
    settings = {"near_duplicates": -1, "min_size": 64, "detector": "red", "clip_frames": 17, "clip_resolution": 192}
    with clips.known():
        cut(photos, out, HsdConfig(levels, clips="both", clip_labels=labels, **settings))
    answer = tmp_path / "answer.json"
    dataset = out / "dataset_musubi.toml"
    server_of(tuner).do(tmp_path, [{"check": "clips", "out": answer, "dataset": dataset, "architecture": "wan"}])
    found = json.loads(answer.read_text())
    rows = [json.loads(line) for line in (out / "sga_manifest.jsonl").read_text().splitlines()]
    kept = {(Path(row["file"]).parent.name, Path(row["file"]).stem): row for row in rows if row["file"]}
    assert {(folder, stem) for folder, stem, *_ in found} == kept.keys() and len(found) == len(kept) > 20
    for folder, stem, (frames, height, width, *colour), bucket in found:
        row = kept[folder, stem]
        assert [width, height, frames] == [*row["size"], row["frames"]]
        assert bucket[:2] == [width, height] and (frames == 1 or bucket == [width, height, frames])
        file = out / row["file"]
        own = clips.read(file) if frames > 1 else np.asarray(Image.open(file))
        assert np.allclose(own.reshape(-1, 3).mean(0), colour, atol=0.2)
