"""From photos or clips to an adapter, by the commands that the README and the presets show, word by word."""

import json
import re
import shlex
from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from sga_kohya.presets import door, find_preset

from .conftest import Server
from .test_clips import told as told_tokens

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def commands_in(text: str) -> list[list[str]]:
    """Lines of a shell, joined where they are broken, as words."""
    return [shlex.split(line) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def filled(words: list[str], places: dict[str, object]) -> list[str]:
    """The placeholders of a command, alone or at the beginning of a path, are what they stand for."""
    found = []
    for word in words:
        head, slash, rest = word.partition("/")
        found.append(f"{places[head]}{slash}{rest}" if head in places else str(places.get(word, word)))
    return found


def preset(name: str, file: Path, **settings: object) -> Path:
    """A preset whose file one has edited: these settings in the place of its own, without those that are None."""
    text = find_preset(name).read_text(encoding="utf-8")
    for key, value in settings.items():
        line = "" if value is None else f"{key} = {value!r}"
        text, count = re.subn(rf"^{key} = .*$", lambda _, line=line: line, text, flags=re.M)
        assert count == 1, f"{name} has no {key}"
    file.write_text(text, encoding="utf-8")
    return file


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8))


def said_by(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return opened.metadata()


def test_the_readme_s_four_commands_lead_from_photos_to_a_flux_2_adapter(server_of, tuner, world_of, tmp_path):
    """With the preset it names, on a model, an autoencoder and texts of random numbers; at 256 pixels, not 1280."""
    block = re.search(r"## musubi-tuner.*?```bash\n(.*?)```", README, re.S)
    commands, world = commands_in(block[1]), world_of(tuner, "flux_2")
    assert len(commands) == 4
    (tmp_path / "photos").mkdir()
    for number, size in enumerate([(768, 512), (512, 768)]):
        picture(number, size).save(tmp_path / "photos" / f"p{number}.png")
        (tmp_path / "photos" / f"p{number}.txt").write_text("a photo")
    prompts, vae = tmp_path / "prompts.txt", world / "flux_2_ae.safetensors"
    prompts.write_text("a man --w 64 --h 64 --s 2 --d 1\n")
    mine = {"dit": str(world / "flux_2.safetensors"), "output_dir": str(tmp_path / "models"), "max_train_epochs": 1}
    mine |= {"vae": str(vae), "sample_prompts": str(prompts)}
    places = {
        **{"PHOTOS": tmp_path / "photos", "OUT": tmp_path / "out", "1280": 256},
        **{"ae.safetensors": vae, "TE": world},
        "my.toml": preset("flux2_lora", tmp_path / "my.toml", **mine),
    }
    output = do(server_of(tuner), tmp_path, commands, places, "flux_2")
    assert "SGA tuple plan" in output and "2: 2 with K=3" in output
    said = said_by(tmp_path / "models" / "flux2_lora.safetensors")
    assert said["ss_sga_groups_by_k"] == "3:2" and said["ss_sga_modulated_by"] == "timestep_shift"
    assert list((tmp_path / "models" / "sample").glob("*.png")), "the preset's samples"


def test_clips_and_images_are_cached_by_the_real_scripts_and_train_in_one_step(server_of, tuner, world_of, tmp_path):
    """By the commands in Wan's preset, on the dataset for clips that is shipped with it; smaller and shorter."""
    world, data = world_of(tuner, "wan"), tmp_path / "DATA"
    for level, size in (("macro", (128, 64)), ("meso", (128, 128)), ("micro", (64, 128))):
        (data / f"1_{level}").mkdir(parents=True)
        for name in ("a", "b"):
            (data / f"1_{level}" / f"{name}.txt").write_text(f"{level} {name}")
            if level == "macro":
                write_clip(data / "1_macro" / f"{name}.mp4", size)
            else:
                picture(1, size).save(data / f"1_{level}" / f"{name}.png")
    dataset = find_preset("dataset_musubi_clips").read_text(encoding="utf-8")
    for old, new in {
        "DATA/": f"{data}/",
        "[960, 544]": "[128, 64]",
        "[41]": "[5]",
        "[1280, 1280]": "[256, 256]",
    }.items():
        assert old in dataset
        dataset = dataset.replace(old, new)
    (tmp_path / "dataset_musubi.toml").write_text(dataset)
    shown = find_preset("wan_lora").read_text(encoding="utf-8").split("\n#\n")[1]
    cut, *commands = commands_in(re.sub(r"^#", "", shown, flags=re.M))
    assert "sga_kohya.hsd" in cut and len(commands) == 3
    mine = {"dit": str(world / "wan.safetensors"), "output_dir": str(tmp_path / "models"), "max_train_epochs": 1}
    mine |= {"dataset_config": str(tmp_path / "dataset_musubi.toml"), "sample_prompts": None}
    places = {
        **{"OUT": tmp_path, "wan_2.1_vae.safetensors": world / "wan_vae.safetensors"},
        "wan_lora.toml": preset("wan_lora", tmp_path / "wan_lora.toml", **mine),
    }
    output = do(server_of(tuner), tmp_path, commands, places, "wan")
    plan = output.partition("SGA tuple plan")[2].partition("\n\n")[0]
    assert "2: 2 with K=3" in plan and "warning" not in plan
    assert said_by(tmp_path / "models" / "wan_lora.safetensors")["ss_sga_groups_by_k"] == "3:2"


TEMPORAL = ["--clips", "temporal", "--clip_labels", "clip:9:128,moment:5:128,frame:1:256"]
BOTH_LABELS = ["--sga_granularities", "clip,moment,frame,macro,meso,micro", "--sga_timestep_shift"]
BOTH_LABELS += ["clip:0.3,frame:-0.3,macro:0.5,micro:-0.5"]


@pytest.mark.parametrize(("cut", "train"), [([], []), (TEMPORAL, BOTH_LABELS)], ids=["spatial", "temporal"])
def test_the_readme_s_commands_lead_from_a_folder_of_clips_and_photos_to_a_wan_adapter(
    server_of, tuner, world_of, tmp_path, cut, train
):
    """With the preset it names, on a model, an autoencoder and texts of random numbers; smaller and shorter.

    Of temporal slices each group has a clip, a moment and a frame, an image, in one step.
    """
    (block,) = re.findall(r"```bash\n(python -m sga_kohya.hsd FOLDER .*?)```", README, re.S)
    commands, world, folder = commands_in(block), world_of(tuner, "wan"), tmp_path / "folder"
    assert len(commands) == 4
    commands[0] += cut
    commands[3] += train
    write_folder(folder)
    mine = {"dit": str(world / "wan.safetensors"), "output_dir": str(tmp_path / "models"), "max_train_epochs": 1}
    mine |= {"vae": str(world / "wan_vae.safetensors"), "sample_prompts": None}
    places = {
        **{"FOLDER": folder, "OUT": tmp_path / "out", "768": 256, "384": 128, "41": 9},
        **{"wan_2.1_vae.safetensors": world / "wan_vae.safetensors"},
        "my.toml": preset("wan_lora", tmp_path / "my.toml", **mine),
    }
    output = do(server_of(tuner), tmp_path, commands, places, "wan")
    plan = output.partition("SGA tuple plan")[2].partition("\n\n")[0]
    rows = [json.loads(line) for line in (tmp_path / "out" / "sga_manifest.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row["file"]]
    by_k = Counter(Counter(row["group"] for row in kept).values())
    told = [f"{by_k[k]} with K={k}" for k in sorted(by_k, reverse=True)]
    assert f"{by_k.total()}: {', '.join(told)}" in plan
    moving = {row["granularity"] for row in kept if (row.get("frames") or 1) > 1}
    assert moving == ({"clip", "moment"} if cut else {"macro", "meso"}) and {"macro", "meso"} <= {
        row["granularity"] for row in kept if row["source"].endswith(".png")
    }
    most: dict[str, int] = {}
    for row in kept:
        width, height = row["size"]
        tokens = width // 16 * (height // 16) * (1 + ((row.get("frames") or 1) - 1) // 4)
        most[row["granularity"]] = max(most.get(row["granularity"], 0), tokens)
    assert told_tokens(plan) == most
    said = said_by(tmp_path / "models" / "wan_lora.safetensors")
    assert said["ss_sga_groups_by_k"] == ",".join(f"{k}:{by_k[k]}" for k in sorted(by_k, reverse=True))


def write_folder(folder: Path) -> None:
    """Two clips and two photos, each with its caption."""
    folder.mkdir()
    for number, size in enumerate([(384, 256), (256, 384)]):
        write_clip(folder / f"clip{number}.mp4", size, frames=24)
        picture(10 + number, size).resize((3 * size[0] // 2, 3 * size[1] // 2)).save(folder / f"photo{number}.png")
        for name in ("clip", "photo"):
            (folder / f"{name}{number}.txt").write_text(f"a {name}")


@pytest.mark.parametrize(
    ("name", "stack"), [("z_image_lora", "z_image"), ("qwen_image_lora", "qwen_image")], ids=["z_image", "qwen_image"]
)
def test_a_tiny_model_takes_a_step_with_a_preset_s_settings(server_of, tuner, world_of, tmp_path, name, stack):
    """FLUX.2's and Wan's train above."""
    world, script = world_of(tuner, stack), door(find_preset(name)).split()[1]
    mine = {"dit": str(world / f"{stack}.safetensors"), "output_dir": str(tmp_path / "models"), "max_train_epochs": 1}
    mine |= {"dataset_config": str(world / stack / "dataset_musubi.toml"), "sample_prompts": None}
    file = preset(name, tmp_path / f"{name}.toml", **mine)
    words = ["python", "-m", "sga_kohya.musubi", script, "--config_file", str(file), "--max_train_steps", "1"]
    do(server_of(tuner), tmp_path, [words], {}, stack)
    assert said_by(tmp_path / "models" / f"{name}.safetensors")["ss_sga_modulated_by"] == "timestep_shift"


def do(server: Server, folder: Path, commands: list[list[str]], places: dict[str, object], stack: str) -> str:
    return server.do(folder, [{"command": filled(words, places), "stack": stack} for words in commands])


def write_clip(file: Path, size: tuple[int, int], frames: int = 12) -> None:
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(30))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_image(picture(number, size))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
