"""A whole study by one command, with a door and a sampler of a few lines: arms, failures, kills, and going on."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toml

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.evaluate.__main__ import main
from sga_kohya.evaluate.overview import Overview
from sga_kohya.evaluate.plan.plan_file import read_plan
from sga_kohya.evaluate.sample.images import weights_of
from sga_kohya.evaluate.study import Study
from sga_kohya.kit.text import duration

from .evaluate_world import PROMPTS, noise, write_clip, write_vit

ARMS = ["raw", "hsd", "without_tuples", "without_modulation", "full"]
BASE = """\
# my domain
pretrained_model_name_or_path = "flux.safetensors"
ae = "ae.safetensors"
dataset_config = "elsewhere.toml"  # replaced
network_module = "networks.lora_flux"
max_train_epochs = 4
save_every_n_epochs = 2  # kept in all arms but one
seed = 42
"""
# Trains by writing its settings into the model; `fail` names arms that end badly, `wait` one that never ends.
DOOR = """
import json, pathlib, sys, time, toml
from PIL import Image
here = pathlib.Path(sys.argv[1]); words = sys.argv[2:]
settings = toml.loads(pathlib.Path(words[words.index("--config_file") + 1]).read_text())
with open(here / "starts", "a") as log: log.write(json.dumps([settings["output_name"], words]) + "\\n")
print("loading", flush=True)
for step in (1, 2): print(f"steps:  {50 * step}%|##| {step}/2 [00:0{step}<00:01, 1.0s/it]", end="\\r", flush=True)
out = pathlib.Path(settings["output_dir"]); (out / "sample").mkdir(parents=True, exist_ok=True)
name = settings["output_name"]
Image.new("RGB", (32, 32)).save(out / "sample" / f"{name}_e000002_00_20260101000000_1.png")
if name in (here / "wait").read_text().split(): time.sleep(60)
if name in (here / "fail").read_text().split(): sys.exit("CUDA out of memory")
header = json.dumps({"__metadata__": {"arm": name}}).encode()
(out / f"{name}.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
"""
SAMPLER = """
import json, pathlib, sys, toml, zlib
from PIL import Image
settings = toml.loads(pathlib.Path(sys.argv[sys.argv.index("--config_file") + 1]).read_text())
sample = pathlib.Path(settings["output_dir"]) / "sample"; sample.mkdir()
for i, job in enumerate(json.loads(pathlib.Path(settings["sample_prompts"]).read_text())):
    seen = f"{job['prompt']}/{job['seed']}/{settings.get('network_weights')}"
    colour = tuple(zlib.crc32(seen.encode()).to_bytes(4, "big")[:3])
    Image.new("RGB", (40, 32), colour).save(sample / f"sampling_000000_{i:02d}_20260101000000_{job['seed']}.png")
"""


@pytest.fixture
def world(tmp_path, monkeypatch):
    """STUDY.toml over two data sets, a checkout of empty scripts, and models for the metrics."""
    (tmp_path / "base.toml").write_text(BASE)
    for name in ("alpha", "beta"):
        out = tmp_path / name
        for folder, count in (("1_macro", 4), ("1_micro", 6), ("photos_raw", 4)):
            (out / folder).mkdir(parents=True)
            for number in range(count):
                noise(number).save(out / folder / f"{number}.png")
                (out / folder / f"{number}.txt").write_text("a cat")
        subsets = {
            "dataset.toml": [out / "1_macro", out / "1_micro"],
            "dataset_raw.toml": [out / "photos_raw"],
        }
        for file, folders in subsets.items():
            listed = [{"image_dir": str(folder), "caption_extension": ".txt"} for folder in folders]
            (out / file).write_text(toml.dumps({"datasets": [{"resolution": 64, "subsets": listed}]}))
    study = {
        "out": "study",
        "seeds": [1],
        "bootstrap": 100,
        "train": {"base": "base.toml"},
        "datasets": [
            {"name": name, "slices": name, "references": f"{name}/photos_raw", "prompts": PROMPTS[:2]}
            for name in ("alpha", "beta")
        ],
        "metrics": {"clip": "clip", "dino": "vit"},
    }
    (tmp_path / "study.toml").write_text(toml.dumps(study))
    (tmp_path / "door.py").write_text(DOOR)
    (tmp_path / "sampler.py").write_text(SAMPLER)
    (tmp_path / "fail").write_text("")
    (tmp_path / "wait").write_text("")
    root = tmp_path / "checkout"
    root.mkdir()
    for script in ("flux_train_network.py", "train_network.py"):
        (root / script).write_text("")
    return tmp_path


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_clip(folder / "clip")
    write_vit(folder / "vit")
    return folder


def changed(world: Path, **values) -> Path:
    path = world / "study.toml"
    path.write_text(toml.dumps({**toml.loads(path.read_text()), **values}))
    return path


def made(world: Path) -> Study:
    python = [sys.executable]
    trainer, sampler = [*python, str(world / "door.py"), str(world)], [*python, str(world / "sampler.py")]
    return Study(read_plan(world / "study.toml"), world / "checkout", trainer, sampler)


def starts(world: Path) -> list[str]:
    path = world / "starts"
    return [json.loads(line)[0] for line in path.read_text().splitlines()] if path.exists() else []


def test_the_arms_differ_in_data_and_switches_and_see_equally_many_pictures(world):
    made(world).prepare()
    arms = {arm: toml.loads((world / "study/arms/alpha" / f"{arm}.toml").read_text()) for arm in ARMS}
    switches = {arm: (values.pop("sga_tuples"), values.pop("sga_modulation")) for arm, values in arms.items()}
    assert switches == {
        "raw": (False, False),
        "hsd": (False, False),
        "without_tuples": (False, True),
        "without_modulation": (True, False),
        "full": (True, True),
    }
    assert [Path(arms[arm].pop("dataset_config")).name for arm in ARMS] == ["dataset_raw.toml", *["dataset.toml"] * 4]
    assert [arms[arm].pop("output_name") for arm in ARMS] == [f"alpha-{arm}" for arm in ARMS]
    assert len({arms[arm].pop("output_dir") for arm in ARMS}) == 5
    # 10 slices come from 4 photos.
    assert (arms["raw"].pop("max_train_epochs"), arms["raw"].pop("save_every_n_epochs")) == (10, 5)
    assert [(arms[arm].pop("max_train_epochs"), arms[arm].pop("save_every_n_epochs")) for arm in ARMS[1:]] == [
        (4, 2)
    ] * 4
    assert all(arms[arm] == arms["raw"] for arm in ARMS)
    text = (world / "study/arms/alpha/full.toml").read_text()
    assert "# my domain" in text and "seed = 42" in text


def test_the_whole_study_ends_in_a_report_and_a_second_call_does_nothing_again(world, backbones, capsys):
    changed(world, metrics={"clip": str(backbones / "clip"), "dino": str(backbones / "vit")})
    assert made(world).run() == 0
    assert starts(world) == [f"{dataset}-{arm}" for dataset in ("alpha", "beta") for arm in ARMS]
    report = (world / "study" / "report.md").read_text()
    assert "Raw photos" in report and "Full SGA" in report and "CLIP-I" in report
    assert "Full SGA less each other arm" in report and "the paper's baseline, and full SGA" in report
    images = {path: path.stat().st_mtime_ns for path in (world / "study" / "images").rglob("*.png")}
    assert len(images) == 2 * 5 * 2 and len({path.read_bytes() for path in images}) == 20
    progress = (world / "study" / "progress" / "alpha" / "grid.html").read_text()
    assert all(f"alpha-{arm}" in progress for arm in ARMS)
    assert made(world).run() == 0
    assert len(starts(world)) == 10 and all(path.stat().st_mtime_ns == at for path, at in images.items())
    rows = [json.loads(line) for line in (world / "study" / "study.jsonl").read_text().splitlines()]
    assert len(rows) == 20 and not any("failed" in row for row in rows)


def test_a_failed_arm_is_said_left_out_and_tried_again_alone(world, backbones, capsys):
    models = {"clip": str(backbones / "clip"), "dino": str(backbones / "vit")}
    changed(world, metrics=models, train={"base": "base.toml", "arms": ["raw", "hsd", "full"]})
    (world / "fail").write_text("beta-hsd")
    assert made(world).run() == 2
    said = capsys.readouterr()
    assert "failed: hsd of beta: its training ended with exit status 1" in said.err and "CUDA out of memory" in said.err
    report = (world / "study" / "report.md").read_text()
    assert "H-SD alone" not in report and "Raw photos" in report
    (world / "fail").write_text("")
    assert made(world).run() == 0
    assert starts(world)[6:] == ["beta-hsd"] and "H-SD alone" in (world / "study" / "report.md").read_text()


CALL = """
import signal, sys; from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # which who starts tests in the background has switched off
from tests.test_evaluate_study import made
made(Path(sys.argv[1])).run()
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_study_that_was_ended_goes_on_with_the_arm_it_was_at(world, number):
    (world / "wait").write_text("alpha-hsd")
    command = [sys.executable, "-c", CALL, str(world)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL)
    while len(starts(world)) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    trainers = [int(name) for name in os.listdir("/proc") if name.isdigit() and _is_door(name, world)]
    process.send_signal(number)
    process.wait(30)
    if number == signal.SIGINT:
        assert not any(_is_door(str(pid), world) for pid in trainers), "nothing goes on training behind one's back"
    else:
        for pid in trainers:
            os.kill(pid, signal.SIGKILL)
    (world / "wait").write_text("")
    study = made(world)
    assert [(kind, variant.name) for kind, _, variant in study.waiting()][:3] == [
        ("train", "hsd"),
        ("sample", "hsd"),
        ("train", "without_tuples"),
    ]


def _is_door(pid: str, world: Path) -> bool:
    try:
        return str(world / "door.py").encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def test_an_arm_of_tuples_goes_on_from_its_newest_state_and_another_begins_anew(world):
    study = made(world)
    for arm in ("full", "hsd"):
        state = study.plan.model("alpha", arm).parent / f"alpha-{arm}-000002-state"
        state.mkdir(parents=True)
        for name in ("model.safetensors", "optimizer.bin"):
            (state / name).write_bytes((2).to_bytes(8, "little") + b"{}" if name[0] == "m" else b"\x80")
    assert study.command("alpha", "full")[-2:] == [
        "--resume",
        str(study.plan.out / "models/alpha/full/alpha-full-000002-state"),
    ]
    assert "--resume" not in study.command("alpha", "hsd")


def test_arms_with_budgets_end_by_hours_and_are_compared_at_each_multiple(world):
    datasets = toml.loads((world / "study.toml").read_text())["datasets"]
    train = {"base": "base.toml", "arms": ["raw", "full"], "budgets": [1.0, 1.5]}
    with pytest.raises(SgaError, match="n1_hours of dataset alpha is missing"):
        read_plan(changed(world, train=train))
    changed(world, datasets=[{**dataset, "n1_hours": 4.0 * place} for place, dataset in enumerate(datasets, 1)])
    study = made(world)
    study.prepare()
    settings = toml.loads((world / "study/arms/beta/raw.toml").read_text())
    assert (settings["sga_save_at_hours"], settings["sga_stop_at_hours"]) == ("8,12", 12)
    assert settings["max_train_epochs"] >= 1000
    config = SgaConfig.from_options(settings)
    assert config.save_at_hours == (8, 12) and config.active, "a baseline that only looks at the clock"
    assert [v.name for v in study.plan.variants] == ["raw-1", "raw-1.5", "full-1", "full-1.5"]
    assert [(kind, v.arm) for kind, d, v in study.waiting() if d.name == "beta" and kind == "train"] == [
        ("train", "raw"),
        ("train", "full"),
    ]
    folder = study.plan.model("alpha", "full").parent
    folder.mkdir(parents=True)
    for hours in (4.01, 6.02):
        header = json.dumps(
            {"__metadata__": {"ss_sga_train_hours": str(hours), "ss_output_name": "alpha-full"}}
        ).encode()
        (folder / f"alpha-full-{hours:g}h.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    picked = [weights_of(study.plan, study.plan.variants[place], study.plan.datasets[0]).name for place in (2, 3)]
    assert picked == ["alpha-full-4.01h.safetensors", "alpha-full-6.02h.safetensors"]
    (world / "base.toml").write_text(f'{BASE}lr_scheduler = "cosine"\n')
    with pytest.raises(SgaError, match="lr_scheduler = cosine must know the end beforehand"):
        read_plan(world / "study.toml")


def test_what_would_train_the_arms_is_printed_for_a_queue(world, capsys, monkeypatch):
    monkeypatch.setenv("SD_SCRIPTS_DIR", str(world / "checkout"))
    (world / "checkout" / "library").mkdir()
    (world / "checkout" / "library" / "train_util.py").write_text("")
    study = Study(read_plan(world / "study.toml"), world / "checkout")
    study.prepare()
    lines = [shlex.split(line) for line in study.commands()]
    assert len(lines) == 10
    assert lines[0][:4] == ["accelerate", "launch", "-m", "sga_kohya.flux_train_network"]
    assert lines[0][4:6] == ["--sd_scripts", str(world / "checkout")]
    assert lines[0][-1] == str(world / "study/arms/alpha/raw.toml") and Path(lines[0][-1]).is_file()


def test_everything_wrong_with_a_study_is_said_at_once(world):
    (world / "base.toml").write_text("sga = false\nmax_train_steps = 9\ntrain_data_dir = 'x'\n")
    changed(world, train={"base": "base.toml", "arms": ["raw", "ful"], "lunch": ["x"]}, seeds=[])
    with pytest.raises(SgaError) as error:
        read_plan(world / "study.toml")
    said = str(error.value)
    assert "arms hold 'ful': write some of raw, hsd" in said and "lunch is unknown: did you mean launch?" in said
    assert "seeds is empty" in said
    changed(world, train={"base": "base.toml", "door": "flux_train_networ"}, seeds=[1])
    (world / "beta" / "dataset_raw.toml").unlink()
    with pytest.raises(SgaError) as error:
        read_plan(world / "study.toml")
    said = str(error.value)
    for part in (
        "no pretrained_model_name_or_path",
        "sga = false switches every arm off",
        "train_data_dir would be the same for every arm",
        "max_train_steps counts tuple steps",
        "beta/dataset_raw.toml does not exist: make it by `python -m sga_kohya.hsd PHOTOS",
    ):
        assert part in said, part
    (world / "base.toml").write_text(BASE.replace("max_train_epochs = 4", "max_train_epochs = 4\n'output_name' = 'x'"))
    changed(world, train={"base": "base.toml", "arms": ["full", "hsd"]})
    with pytest.raises(SgaError, match="write each of output_dir, output_name, .* on a line of its own"):
        read_plan(world / "study.toml")
    changed(world, train={"base": "nowhere.toml"})
    with pytest.raises(SgaError, match=r"\[train\]: base = 'nowhere.toml': .*does not exist"):
        read_plan(world / "study.toml")


def test_what_the_doors_would_refuse_is_said_before_the_first_of_them_starts(world):
    (world / "base.toml").write_text(f"{BASE}fused_backward_pass = true\n")
    (world / "alpha" / "photos_raw" / "0.txt").write_text("")
    (world / "checkout" / "flux_train_network.py").unlink()
    with pytest.raises(SgaError) as error:
        made(world).run()
    said = str(error.value)
    assert "--fused_backward_pass excludes tuples" in said and "full of alpha" in said
    assert "raw of alpha: " in said and "has no flux_train_network.py" in said
    assert not starts(world)


def test_an_arm_is_not_mixed_with_what_other_settings_have_trained(world):
    study = made(world)
    study.prepare()
    model = study.plan.model("alpha", "full")
    model.parent.mkdir(parents=True)
    model.with_name("alpha-full-000002.safetensors").write_bytes(b"")
    (world / "base.toml").write_text(BASE.replace("42", "43"))
    with pytest.raises(SgaError, match=r"full.toml would no longer be what .*models/alpha/full was trained with"):
        made(world).prepare()
    assert "43" in (world / "study/arms/alpha/raw.toml").read_text(), "nothing was trained with it yet"


TUNER_BASE = """\
dit = "flux2.safetensors"
vae = "ae.safetensors"
text_encoder = "qwen"
model_version = "klein-base-9b"
fp8_base = true
dataset_config = "elsewhere.toml"
network_module = "networks.lora_flux_2"
sdpa = true
max_train_epochs = 4
"""
# Caches by naming itself, and draws a file of prompts as musubi-tuner does; `fail` may name a dataset's TOML.
TUNER = """
import json, pathlib, sys, zlib
from PIL import Image
here = pathlib.Path(sys.argv[1]); words = sys.argv[2:]
with open(here / "scripts", "a") as log: log.write(json.dumps(words) + "\\n")
if words[0].endswith(".py"):
    file = words[words.index("--dataset_config") + 1]
    sys.exit("no VAE" if file.removeprefix(str(here)) in (here / "fail").read_text().split() else 0)
out = pathlib.Path(words[words.index("--save_path") + 1])
for i, line in enumerate(open(words[words.index("--from_file") + 1])):
    seed = line.split(" --d ")[1].split()[0]
    colour = tuple(zlib.crc32(f"{line}/{words}".encode()).to_bytes(4, "big")[:3])
    Image.new("RGB", (40, 32), colour).save(out / f"20260101-000000-00{i}_{seed}_000.png")
"""


@pytest.fixture
def tuner_world(world):
    """The same with musubi-tuner's files in the place of sd-scripts'."""
    (world / "base.toml").write_text(TUNER_BASE)
    (world / "tuner.py").write_text(TUNER)
    for name in ("flux2.safetensors", "qwen", "ae.safetensors"):
        (world / name).write_bytes(b"")
    for name in ("alpha", "beta"):
        for file, folders in {"dataset_musubi": ["1_macro", "1_micro"], "dataset_musubi_raw": ["photos_raw"]}.items():
            tables = [
                {"image_directory": str(world / name / f), "cache_directory": f, "num_repeats": 1} for f in folders
            ]
            (world / name / f"{file}.toml").write_text(toml.dumps({"general": {}, "datasets": tables}))
    package = world / "musubi" / "src" / "musubi_tuner"
    package.mkdir(parents=True)
    (package / "flux_2_train_network.py").write_text("")
    return world


def by_tuner(world: Path) -> Study:
    trainer, sampler = ([sys.executable, str(world / file), str(world)] for file in ("door.py", "tuner.py"))
    return Study(read_plan(world / "study.toml"), world / "musubi" / "src" / "musubi_tuner", trainer, sampler)


def scripts(world: Path) -> list[list[str]]:
    return [json.loads(line) for line in (world / "scripts").read_text().splitlines()]


def test_a_study_with_musubi_tuner_caches_each_data_once_and_draws_with_its_own_script(
    tuner_world, backbones, capsys, monkeypatch
):
    world = tuner_world
    monkeypatch.chdir(world)
    models = {"clip": str(backbones / "clip"), "dino": str(backbones / "vit")}
    arms = {"base": "base.toml", "arms": ["raw", "hsd", "full"]}
    changed(world, metrics=models, train=arms, generate={"scale": 4.0}, variants=[{"name": "untrained"}])
    (world / "fail").write_text("/beta/dataset_musubi.toml")
    assert by_tuner(world).run() == 2
    caches = [(words[0], Path(words[2]).relative_to(world).as_posix()) for words in scripts(world) if ".py" in words[0]]
    latents, texts = "flux_2_cache_latents.py", "flux_2_cache_text_encoder_outputs.py"
    assert caches == [
        *[(latents, "alpha/dataset_musubi_raw.toml"), (texts, "alpha/dataset_musubi_raw.toml")],
        *[(latents, "alpha/dataset_musubi.toml"), (texts, "alpha/dataset_musubi.toml")],
        *[(latents, "beta/dataset_musubi_raw.toml"), (texts, "beta/dataset_musubi_raw.toml")],
        (latents, "beta/dataset_musubi.toml"),
    ]
    said = capsys.readouterr().err
    assert all(f"failed: {arm} of beta: its caches were not made" in said for arm in ("hsd", "full"))
    assert "no VAE" in said and starts(world) == ["alpha-raw", "alpha-hsd", "alpha-full", "beta-raw"]
    settings = toml.loads((world / "study/arms/alpha/raw.toml").read_text())
    assert settings["dataset_config"] == str(world / "alpha" / "dataset_musubi_raw.toml")
    assert settings["max_train_epochs"] == 10 and "save_model_as" not in settings
    drawn = next(words for words in scripts(world) if "--from_file" in words and "alpha-full" in " ".join(words))
    for pair in (
        "--dit flux2.safetensors",
        "--text_encoder qwen",
        "--model_version klein-base-9b",
        "--fp8",
        "--lora_weight",
    ):
        assert pair in " ".join(drawn)
    assert "--lycoris" not in drawn and "--embedded_cfg_scale 3.5" in " ".join(drawn)
    (world / "fail").write_text("")
    assert by_tuner(world).run() == 0
    assert starts(world)[4:] == ["beta-hsd", "beta-full"]
    assert len(list((world / "study" / "images").rglob("p*.png"))) == 2 * 4 * 2


def test_a_queue_is_told_what_makes_the_caches_and_a_family_without_pictures_what_to_do(tuner_world, monkeypatch):
    world = tuner_world
    monkeypatch.chdir(world)
    changed(world, train={"base": "base.toml", "arms": ["full"]}, variants=[{"name": "untrained"}])
    package = world / "musubi" / "src" / "musubi_tuner"
    study = Study(read_plan(world / "study.toml"), package)
    lines = [shlex.split(line) for line in study.commands()]
    assert [Path(words[1]).name for words in lines[:2]] == [
        "flux_2_cache_latents.py",
        "flux_2_cache_text_encoder_outputs.py",
    ]
    assert lines[2][:5] == ["accelerate", "launch", "-m", "sga_kohya.musubi", "flux_2_train_network"]
    assert lines[2][5:7] == ["--musubi_tuner", str(world / "musubi")] and len(lines) == 6
    (world / "base.toml").write_text(TUNER_BASE.replace("lora_flux_2", "lora_wan"))
    with pytest.raises(
        SgaError, match="wan_train_network's pictures cannot be drawn from here: train the arms of its presets"
    ):
        read_plan(world / "study.toml")
    changed(world, train={"base": "base.toml", "arms": ["full"], "door": "hv_train_network"})
    with pytest.raises(SgaError, match="door = 'hv_train_network': write one of flux_2_train_network, zimage"):
        read_plan(world / "study.toml")
    changed(world, train={"base": "base.toml", "arms": ["full"]})
    (world / "base.toml").write_text(TUNER_BASE.replace("networks.lora_flux_2", "lycoris.kohya"))
    with pytest.raises(SgaError, match="Write door, such as flux_2_train_network"):
        read_plan(world / "study.toml")
    (world / "base.toml").write_text(TUNER_BASE.replace('text_encoder = "qwen"', ""))
    with pytest.raises(SgaError, match="full of alpha: no text_encoder: the scripts that cache and draw need them"):
        Study(read_plan(world / "study.toml"), package).prepare()


def test_a_plan_without_training_is_told_what_a_study_needs(world, capsys, monkeypatch):
    values = toml.loads((world / "study.toml").read_text())
    del values["train"]
    values["variants"] = [{"name": "a", "images": "a"}, {"name": "b", "images": "b"}]
    (world / "study.toml").write_text(toml.dumps(values))
    monkeypatch.setenv("SD_SCRIPTS_DIR", str(world / "checkout"))
    assert main(["study", str(world / "study.toml")]) == 2


def test_time_left_counts_every_stage_by_what_its_kind_has_taken(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("sga_kohya.evaluate.overview.time.monotonic", lambda: clock[0])
    rows = [{"stage": "sample", "seconds": 10.0}, {"stage": "train", "seconds": 1.0, "failed": "x"}]
    overview = Overview(["train", "sample", "train", "sample", "report"], rows)
    with overview.stage("train", "full"):
        assert overview.left(0.0) is None
        clock[0] = 50.0
        assert overview.left(0.25) == 150 + 200 + 2 * 10
    with overview.stage("sample", "full"):
        assert overview.left(0.0) == 10 + 50 + 10
    assert duration(3 * 3600 + 90) == "3 h 02 min" and duration(90) == "2 min" and duration(20.4) == "20 s"
