"""Clips and photos of one subject in one tuple, on the real musubi-tuner: by manifest, rows or names, excerpts too."""

import json
import re
from pathlib import Path

import pytest

from sga_kohya.hosts.musubi.families import SCRIPTS

from .stacks import CLIP_SIZE, EXCERPT, STACKS
from .test_flux_2 import clipped, close, eq_6, of, recorded, steps
from .test_scripts import in_bf16

LABELS = ["clip", "shot", "frame"]
GROUPS = [LABELS, LABELS, LABELS, ["clip", "frame"], ["frame"]]
CLIPS = {
    "clip": {"size": CLIP_SIZE, "frames": 9, "starts": [0, 9], "batch": 1},
    "shot": {"size": (64, 64), "frames": 5},
}
MEMBERS = dict(enumerate((index, level) for index, levels in enumerate(GROUPS) for level in levels))
EXCERPTS = {number + EXCERPT: member for number, member in MEMBERS.items() if member[1] == "clip"}
DELTA = "clip:0.5,shot:0.2,frame:-0.3"
OF_FRAMES = {0: 1, 1: 2, 2: 0}
"""By the manifest, the frame of this name belongs to the clips of that one."""
SETTINGS = {"door": "sga", "sga_granularities": ",".join(LABELS), "sga_timestep_shift": DELTA, "max_train_epochs": 1}


@pytest.fixture(scope="module")
def world(server_of, tuner, tmp_path_factory):
    """`world(stack)`: the stack's model, and clips of two lengths and sizes beside frames."""
    worlds: dict[str, Path] = {}

    def world(stack: str) -> Path:
        if stack not in worlds:
            folder = worlds[stack] = tmp_path_factory.mktemp("clips")
            job = {"write": folder, "stack": stack, "groups": GROUPS, "sizes": [(128, 128)], "clips": CLIPS}
            server_of(tuner).do(folder, [job])
        return worlds[stack]

    return world


def group_of(index: int, level: str) -> int:
    return OF_FRAMES.get(index, index) if level == "frame" else index


def manifest(data: Path, file: Path) -> Path:
    """As H-SD writes it, with groups that are not the files' names."""
    rows = [
        {
            "file": str(data / f"1_{level}" / f"{index:02}{'.png' if level == 'frame' else '.mp4'}"),
            "granularity": level,
            "group": f"cut-{group_of(index, level)}",
            **({} if level == "frame" else {"frames": CLIPS[level]["frames"], "fps": 16.0}),
        }
        for index, level in MEMBERS.values()
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.mark.parametrize("stack", ["wan", "hv_1_5", "fpack", "kandinsky5"])
def test_clips_of_two_lengths_and_a_frame_train_by_the_manifest_s_groups_and_eq_6(run, world, tmp_path, stack):
    """Of each clip two excerpts, one at a time; shots and frames two at a time."""
    folder = world(stack)
    settings = {"stack": stack, "world": folder}
    settings["sga_manifest"] = manifest(folder / stack, tmp_path / "manifest.jsonl")
    output = run({"out": "on", "record": True, **SETTINGS, **settings})
    assert "5: 3 with K=3, 1 with K=2, 1 with K=1" in output
    assert "8 of 4 clips: those of one clip train in its step, as slices of one granularity" in output
    known, trained = MEMBERS | EXCERPTS, steps(recorded(tmp_path, "on"))
    assert sorted(n for step in trained for batch in of(step, "batch") for n in batch["ids"]) == sorted(known)
    largest: dict[str, int] = {}
    for step in trained:
        batches = of(step, "batch")
        for batch in batches:
            ((level,),) = ({known[number][1] for number in batch["ids"]},)
            assert len(batch["ids"]) <= (1 if level == "clip" else 2)
            tokens = len(batch["ids"]) * SCRIPTS[STACKS[stack].script].tokens(*batch["shape"][2:])
            largest[level] = max(largest.get(level, 0), tokens)
        slices = [known[number] for batch in batches for number in batch["ids"]]
        for index in {group_of(*member) for member in slices}:
            assert {level for i, level in slices if group_of(i, level) == index} == set(GROUPS[index])
        compare = close if stack in ("wan", "hv_1_5") else in_bf16
        compare(of(step, "step")[0]["grads"], clipped(eq_6(batches, of(step, "backward"), known)))
    assert told(output) == largest, "the plan tells the tokens that the model was then given"
    assert re.search(r"clip +\d+ in a sub-batch of 1: 128 x 64, 9 frames", output)
    assert re.search(
        r"frame +\d+ in a sub-batch of 2: 128 x 128(   the most, so it decides the memory)?$", output, re.M
    )


def test_a_family_s_patch_is_its_model_s_own(server_of, tuner, tmp_path):
    """As far as a model says it: the others pack 2 x 2 latent pixels, or are trained on packed ones."""
    answer = tmp_path / "answer.json"
    server_of(tuner).do(tmp_path, [{"check": "patches", "out": answer}])
    found = json.loads(answer.read_text())
    assert len(found) == 6 and found == {script: SCRIPTS[script].patch for script in found}


def told(output: str) -> dict[str, int]:
    """Tokens of the largest sub-batch of each granularity, by the plan."""
    found = re.findall(r"^ +(?:tokens +)?(\w+) +([\d,]+) in a sub-batch", output, re.M)
    return {level: int(tokens.replace(",", "")) for level, tokens in found}


def test_rows_of_clips_and_a_folder_of_frames_share_groups(run, world, tmp_path):
    """A row names its group, the stem of the frame; each clip is found whichever excerpt was cached."""
    folder = world("wan")
    data, jsonl = folder / "wan", tmp_path / "clips.jsonl"
    rows = [
        {"video_path": f"/away/{index:02}.mp4", "caption": "x", "granularity": "clip", "group": f"{index:02}"}
        for index, level in MEMBERS.values()
        if level == "clip"
    ]
    rows[-1]["granularity"] = "clips"
    jsonl.write_text("\n".join(map(json.dumps, rows)))
    text = (data / "dataset_musubi.toml").read_text()
    dataset = tmp_path / "rows.toml"
    dataset.write_text(text.replace(f'video_directory = "{data}/1_clip"', f'video_jsonl_file = "{jsonl}"'))
    settings = {"stack": "wan", "world": folder, "dataset_config": dataset, "max_train_steps": 1}
    output = run({"out": "on", **SETTINGS, **settings})
    assert "7: 3 with K=3, 4 with K=1" in output, "the last clip's two excerpts have no granularity"
    assert '1 rows of a JSONL file say no granularity that is known, such as: granularity = "clips"' in output
    assert 'did you mean "clip"?' in output


def test_what_of_a_clip_does_not_train_is_said(run, world, tmp_path):
    """One shorter than a cache needs to be, and all of them where nobody said how many frames."""
    folder = world("wan")
    text = (folder / "wan" / "dataset_musubi.toml").read_text()
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("00", "01", "02", "short"):
        (videos / f"{name}.mp4").write_bytes(b"")
    dataset = tmp_path / "short.toml"
    dataset.write_text(
        text.replace(f'"{folder}/wan/1_shot"', f'"{videos}"\nsource_fps = 30.0')
        .replace("target_frames = [9]\n", "")
        .replace("resolution = [64, 64]", "resolution = [192, 64]")
    )
    settings = {"stack": "wan", "world": folder, "dataset_config": dataset}
    output = run({"out": "on", **SETTINGS, **settings, "sga_show_timesteps": tmp_path / "levels.png"})
    assert "128x64 " in output and "64x64 " in output, "noise levels are drawn for clips as for images"
    output = run({"out": "on", **SETTINGS, **settings, "max_train_steps": 1})
    assert "such as short: run the cache scripts for latents and for text; no cache is made of a clip below 5" in output
    assert "5 frames at 16 a second" in output
    assert "in a sub-batch of 2: 64 x 64, 5 frames" in output, "the size that they are cached at, and can be stacked"
    assert "of each clip of" in output and "one frame trains: set target_frames" in output
