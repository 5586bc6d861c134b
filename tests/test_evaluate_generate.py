"""Sampling by scripts that speak sd-scripts' protocols: resuming, failing, new settings. The real ones are in host/."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import toml
from PIL import Image
from safetensors.numpy import save_file

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.__main__ import main
from sga_kohya.evaluate.plan.plan_file import read_plan
from sga_kohya.evaluate.sample.generate import clear_leftovers, generate
from sga_kohya.evaluate.sample.images import all_images
from sga_kohya.hosts.sampling import Job, Sampling, line_of, to_words
from sga_kohya.hosts.sd_scripts.samplers import SCRIPTS, arguments_of

from .evaluate_world import write_plan

# Each draws a colour that depends on prompt and seed, writes to its own kind of folder, and stops early on request.
PICTURE = """
import sys, os, json, pathlib, zlib
from PIL import Image, PngImagePlugin
def draw(path, prompt, seed):
    info = PngImagePlugin.PngInfo(); info.add_text("prompt", prompt)
    colour = tuple(zlib.crc32(f"{prompt}/{seed}".encode()).to_bytes(4, "big")[:3])
    Image.new("RGB", (8, 8), colour).save(path, pnginfo=info)
def option(name):
    return sys.argv[sys.argv.index("--" + name) + 1]
def read(line):
    prompt, *options = line.strip().split(" --")
    return prompt, dict(o.split(" ", 1) for o in options)
left = int(pathlib.Path(sys.argv[1]).read_text())
with open(sys.argv[1] + ".starts", "a") as log: log.write(json.dumps(sys.argv[2:]) + "\\n")
"""
INTERACTIVE = """
print("loading"); print("Enter prompt (empty to exit)", flush=True)
while (line := input()):
    left -= 1
    if left < 0: sys.exit("out of memory")
    prompt, o = read(line)
    draw(option("output_dir") + "/20260101_000000.png", prompt, o["d"])
    print("Saved image", flush=True); print("Enter prompt", flush=True)
"""
LISTED = """
for line in open(option("from_file")):
    left -= 1
    if left < 0: sys.exit("out of memory")
    prompt, o = read(line)
    draw(option("outdir") + "/" + o["f"], prompt, o["d"])
"""


@pytest.fixture
def sampled(tmp_path):
    """(plan's path, command, file that says how many images the script may make)"""

    def make(protocol, script, **settings):
        (tmp_path / "fake.py").write_text(PICTURE + protocol)
        (tmp_path / "left").write_text("99")
        (tmp_path / "w.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
        path = write_plan(tmp_path, ("one", "two"), ("alpha",), generate={"script": script, **settings})
        values = toml.loads(path.read_text())
        values["variants"] = [{"name": "one"}, {"name": "two", "weights": "w.safetensors"}]
        path.write_text(toml.dumps(values))
        return path, [sys.executable, str(tmp_path / "fake.py"), str(tmp_path / "left")], tmp_path / "left"

    return make


def starts(left: Path) -> list[list[str]]:
    return [json.loads(line) for line in Path(f"{left}.starts").read_text().splitlines()]


@pytest.mark.parametrize(
    "protocol, script, weights",
    [(INTERACTIVE, "flux_minimal_inference.py", "--lora_weights"), (LISTED, "gen_img.py", "--network_weights")],
)
def test_one_start_for_each_variant_and_a_failure_is_resumed(sampled, tmp_path, protocol, script, weights):
    path, command, left = sampled(protocol, script, arguments={"fp16": True, "ckpt": "base"})
    plan = read_plan(path)
    left.write_text("4")
    with pytest.raises(SgaError, match=r"made 4 of 6 images of one for alpha.*(?s:.*)out of memory"):
        generate(plan, tmp_path, command)
    left.write_text("99")
    assert generate(plan, tmp_path, command) == 2 + 6
    files = all_images(plan)
    colours = {
        (cell.prompt, cell.seed, cell.variant): Image.open(file).getpixel((0, 0)) for cell, file in files.items()
    }
    assert len(set(colours.values())) == 6  # by prompt and seed
    assert all(colours[prompt, seed, "one"] == colours[prompt, seed, "two"] for prompt, seed, _ in colours)
    assert not any(Image.open(file).info for file in files.values())
    assert len(starts(left)) == 3
    assert weights not in starts(left)[0] and weights in starts(left)[2] and "--fp16" in starts(left)[0]
    assert generate(plan, tmp_path, command) == 0 and len(starts(left)) == 3
    assert not list(plan.out.rglob("*.partial")) and not list(plan.out.rglob(".sampling-*"))


def test_what_was_made_before_a_kill_is_kept(sampled, tmp_path):
    waiting = LISTED.replace("""sys.exit("out of memory")""", "wait()")
    path, command, left = sampled(
        f"def wait():\n    while os.getppid() == parent: time.sleep(0.1)\n{waiting}", "gen_img.py"
    )
    code = (tmp_path / "fake.py").read_text()
    (tmp_path / "fake.py").write_text(f"import os, time\nparent = os.getppid()\n{code}")
    left.write_text("4")
    code = "from pathlib import Path; from sga_kohya.evaluate.sample.generate import generate;"
    code += "from sga_kohya.evaluate.plan.plan_file import read_plan;"
    code += f"generate(read_plan(Path({str(path)!r})), Path('.'), {command!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    made = tmp_path / "evaluation" / "images" / "alpha" / "one"
    while len(list(made.glob("p*.png"))) < 3:  # the fourth might not be whole
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert sorted(file.name for file in made.glob("p*.png")) == ["p01_s1.png", "p01_s2.png", "p02_s1.png"]
    left.write_text("99")
    plan = read_plan(path)
    clear_leftovers(made)
    assert generate(plan, tmp_path, command, only="one") == 3
    assert [file.name for file in made.iterdir() if file.name.startswith(".")] == []


def test_images_of_another_hand_are_not_replaced(sampled, tmp_path):
    path, command, _ = sampled(LISTED, "gen_img.py")
    mine = tmp_path / "evaluation" / "images" / "alpha" / "one" / "p01_s1.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(SgaError, match=r"1 images in .*one were not made here, such as p01_s1\.png"):
        generate(read_plan(path), tmp_path, command)
    assert mine.read_bytes() == b"mine"


def test_other_weights_or_settings_make_new_images(sampled, tmp_path):
    path, command, left = sampled(LISTED, "gen_img.py")
    generate(read_plan(path), tmp_path, command)
    (tmp_path / "w.safetensors").write_bytes(b"\x03\0\0\0\0\0\0\0{ }")
    assert generate(read_plan(path), tmp_path, command) == 6  # only of the variant with these weights
    values = toml.loads(path.read_text())
    values["generate"]["steps"] = 9
    path.write_text(toml.dumps(values))
    assert generate(read_plan(path), tmp_path, command, only="one") == 6
    values["seeds"] = [1, 2, 3]
    path.write_text(toml.dumps(values))
    assert generate(read_plan(path), tmp_path, command, only="one") == 3  # what is there stays


def test_what_files_alone_show_is_said_before_anything_starts(sampled, tmp_path, capsys):
    path, command, left = sampled(INTERACTIVE, "flux_minimal_inference.py")
    save_file({"lycoris_unet_x.lora_down.weight": np.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(SgaError, match="LyCORIS network.*script = 'flux_train_network.py'"):
        generate(read_plan(path), tmp_path, command)
    values = toml.loads(path.read_text())
    for change, message in (
        ({"script": "sample.py"}, "write one of flux_minimal_inference.py"),
        ({"script": "flux_train_network.py"}, "config is missing"),
        ({"script": "flux_train_network.py", "config": "gone.toml"}, "config: .*gone.toml does not exist"),
    ):
        path.write_text(toml.dumps(values | {"generate": change}))
        with pytest.raises(SgaError, match=message):
            generate(read_plan(path), tmp_path, command)
    path.write_text(toml.dumps(values | {"datasets": [values["datasets"][0] | {"prompts": ["a cat --w 20"]}]}))
    with pytest.raises(SgaError, match="would take '--' for an option"):
        generate(read_plan(path), tmp_path, command)
    values["variants"][1]["weights"] = "gone.safetensors"
    path.write_text(toml.dumps(values))
    with pytest.raises(SgaError, match="gone.safetensors do not exist"):
        generate(read_plan(path), tmp_path, command)
    assert not Path(f"{left}.starts").exists()
    assert main(["run", str(path), "--sd_scripts", str(tmp_path)]) == 2
    assert "is no sd-scripts checkout" in capsys.readouterr().err


def test_lines_in_the_words_of_each_script():
    job = Job(3, "a cat", 7)
    flux = Sampling("flux_minimal_inference.py", width=64, height=32, steps=2, guidance=3.0, negative="dog")
    assert line_of(SCRIPTS[flux.script], flux, job) == "a cat --w 64 --h 32 --s 2 --d 7 --g 3.0 --c 1.0 --n dog"
    for script, scale, end in (
        ("gen_img.py", 7.0, "--d 7 --l 7.0 --f 000003.png"),
        ("lumina_minimal_inference.py", 4.0, "--s 20 --d 7 --g 4.0"),
    ):
        assert line_of(SCRIPTS[script], Sampling(script, scale=scale), job).endswith(end)


def test_a_training_toml_loses_its_data_and_its_schedule_and_keeps_its_models(tmp_path):
    (tmp_path / "train.toml").write_text(
        """
        pretrained_model_name_or_path = "m"
        network_module = "lycoris.kohya"
        network_args = ["algo=lora", "dora_wd=True"]
        mixed_precision = "bf16"
        dataset_config = "big.toml"
        max_train_epochs = 40
        save_every_n_epochs = 4
        sga_tuples = true
        [sga_snr_gamma]
        macro = 4
        [section]
        optimizer_type = "Prodigy"
        optimizer_args = ["d_coef=2"]
        lr_scheduler = "cosine"
        """
    )
    sampling = Sampling("flux_train_network.py", config=str(tmp_path / "train.toml"), negative="dog")
    words = arguments_of(sampling, {"lowram": True}, Path("w.safetensors"), [Job(0, "a -- cat", 5)], tmp_path)
    assert words == ["--config_file", str(tmp_path / "sampling.toml")]
    written = toml.loads((tmp_path / "sampling.toml").read_text())
    kept = {"pretrained_model_name_or_path": "m", "network_module": "lycoris.kohya", "mixed_precision": "bf16"}
    assert kept.items() <= written.items() and written["lowram"] is True
    assert written["network_weights"] == "w.safetensors" and written["max_train_steps"] == 0
    assert written["optimizer_type"] == "AdamW" and "optimizer_args" not in written and "sga_tuples" not in written
    assert "macro" not in written, "a table of an SGA option is no section"
    assert not {"max_train_epochs", "save_every_n_epochs"} & written.keys()
    (prompt,) = json.loads((tmp_path / "prompts.json").read_text())
    assert (prompt["prompt"], prompt["seed"], prompt["negative_prompt"]) == ("a -- cat", 5, "dog")


def test_words_of_arguments():
    given = {"fp16": True, "xformers": False, "n": 3, "list": ["a", 1]}
    assert to_words(given) == ["--fp16", "--n", "3", "--list", "a", "1"]
    assert {script.protocol for script in SCRIPTS.values()} == {"interactive", "listed", "trainer"}
