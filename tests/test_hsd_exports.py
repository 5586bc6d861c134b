"""The files for other trainers: what is in them, and what each trainer's own reader makes of them."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toml
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.hsd import HsdConfig, LevelConfig, run
from sga_kohya.hsd.__main__ import main
from sga_kohya.hsd.out.dataset import noise_offsets
from sga_kohya.hsd.out.exports import EXPORTS
from sga_kohya.hsd.out.exports.diffusion_pipe import one_size_an_aspect
from sga_kohya.kit.sealed import is_untouched

from .trainers import READERS

OFFSETS = {"macro": 0.5, "meso": 0.0, "micro": -0.5}
CONFIG = HsdConfig(
    (LevelConfig("macro", 512, tau_up=1.0), LevelConfig("meso", 512), LevelConfig("micro", 512, tau_up=4.0, repeats=3)),
    batch_size=4,
    near_duplicates=-1,
    export=tuple(EXPORTS),
)
QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"')
FOLDERS = {"macro": "1_macro", "meso": "1_meso", "micro": "3_micro"}


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:] = np.linspace(60, 120, size[0]).astype(np.uint8)[None, :, None]
    pixels[size[1] // 8 : size[1] // 3, size[0] // 8 : size[0] // 3] = (220, 30, seed)
    return Image.fromarray(pixels)


def make(folder: Path) -> Path:
    photos = folder / "photos"
    photos.mkdir(parents=True)
    for number, size in enumerate([(900, 700), (1024, 512), (512, 1024), (640, 640)]):
        picture(number, size).save(photos / f"p{number}.png")
        (photos / f"p{number}.txt").write_text("a caption")
    return photos


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / 'odd "name" \\ with # ünïcode'
    run(make(folder.parent), folder, CONFIG)
    return folder


def sizes_of(out: Path, level: str) -> list[list[int]]:
    return [list(Image.open(file).size) for file in sorted((out / FOLDERS[level]).glob("*.png"))]


@pytest.mark.parametrize("name", READERS)
def test_each_trainers_own_reader_takes_the_file(name, out):
    _, copy = READERS[name]
    if not copy.is_dir():
        pytest.skip(f"no copy of {name} at {copy}")
    sizes = [size for level in FOLDERS for size in sizes_of(out, level)]
    command = [sys.executable, str(Path(__file__).parent / "trainers.py"), name, str(out / EXPORTS[name].file)]
    done = subprocess.run([*command, json.dumps(sizes)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("FOUND "))
    found = json.loads(line.removeprefix("FOUND "))
    assert [Path(level["folder"]) for level in found] == [out / folder for folder in FOLDERS.values()]
    assert [level["repeats"] for level in found] == [1, 1, 3]
    if name in ("simpletuner", "stock"):
        assert [level["offset"] for level in found] == list(OFFSETS.values())
    if name == "ai-toolkit":
        assert all(level["sizes"] == sizes for level in found), "it resizes nothing"
    if name == "diffusion-pipe":
        ends = np.cumsum([0, *(len(sizes_of(out, level)) for level in FOLDERS)])
        spans = zip(ends, ends[1:], strict=False)
        assert all(level["sizes"][i:j] == sizes[i:j] for level, (i, j) in zip(found, spans, strict=True))
    if name == "simpletuner":
        written = json.loads((out / EXPORTS[name].file).read_text("utf-8"))[:-1]
        assert [level["area"] for level in found] == [backend["resolution"] ** 2 / 1e6 for backend in written]


def test_diffusion_pipe_gets_one_size_an_aspect_ratio_by_aspect_ratio():
    """It sorts aspect ratios and throws equal ones away, but not the sizes that they belong to."""
    sizes = Counter({(1024, 512): 1, (512, 256): 5, (512, 512): 2, (512, 1024): 3, (832, 1216): 1, (416, 608): 1})
    assert one_size_an_aspect(sizes) == [(512, 1024), (832, 1216), (512, 512), (512, 256)]


def test_noise_offsets_are_the_papers_or_as_far_apart():
    assert noise_offsets(["macro", "meso", "micro"]) == OFFSETS
    assert noise_offsets(["macro", "micro"]) == {"macro": 0.5, "micro": -0.5}
    assert noise_offsets(["scene", "person", "face", "eye"]) == {
        "scene": 0.5,
        "person": 0.167,
        "face": -0.167,
        "eye": -0.5,
    }


def test_stock_sd_scripts_gets_a_table_that_its_workers_can_pickle(out):
    text = (out / "dataset_stock.toml").read_text(encoding="utf-8")
    (dataset,) = toml.loads(text)["datasets"]
    assert "{" not in text
    assert [subset["custom_attributes"] for subset in dataset["subsets"]] == [
        {"timestep_sampling": {"offset": offset}} for offset in OFFSETS.values()
    ]


def test_only_what_is_asked_for_is_written_and_it_goes_when_it_is_not_asked_for_any_more(tmp_path):
    photos, out = make(tmp_path), tmp_path / "out"
    files = {export.file for export in EXPORTS.values()}
    always = {"dataset.toml", "dataset_musubi.toml"}

    def there() -> set[str]:
        return {path.name for path in out.iterdir()} & files

    run(photos, out, replace(CONFIG, export=()))
    assert there() == always
    run(photos, out, replace(CONFIG, export=("onetrainer", "simpletuner")))
    assert there() == always | {"concepts.json", "multidatabackend.json"}
    (out / "concepts.json").write_text((out / "concepts.json").read_text("utf-8").replace("macro", "Macro", 1), "utf-8")
    result = run(photos, out, replace(CONFIG, export=()))
    assert there() == always and result.swept.aside == [out / "concepts.edited.json"], "edited by hand"


@pytest.mark.parametrize("export", EXPORTS.values(), ids=lambda export: export.name)
def test_a_file_of_another_hand_is_never_overwritten(export, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / export.file).write_text("mine")
    with pytest.raises(SgaError, match=rf"{export.file} was not written by"):
        run(make(tmp_path), tmp_path / "out", CONFIG)
    assert (tmp_path / "out" / export.file).read_text() == "mine"


def test_other_trainers_caches_go_with_what_they_were_made_of(tmp_path):
    photos, out = make(tmp_path), tmp_path / "out"
    run(photos, out, CONFIG)
    hashed = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("p0", "p1", "p2")}
    simpletuner, ai_toolkit = out / "cache_simpletuner" / "1_macro", out / "1_macro" / "_latent_cache"
    tail = "_aB-9_" + "x" * 17 + ".safetensors"  # 22 characters behind the first underscore
    for folder, names in (
        (simpletuner, [f"{h}.pt" for h in hashed.values()]),
        (ai_toolkit, [n + tail for n in hashed]),
    ):
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_bytes(b"cache")
    index = out / "1_macro" / "aspect_ratio_bucket_indices_sga-macro.json"
    index.write_text("{}")
    run(photos, out, CONFIG)
    assert len(list(simpletuner.iterdir())) == len(list(ai_toolkit.iterdir())) == 3 and index.exists(), (
        "nothing changed"
    )
    picture(200, (900, 700)).save(photos / "p0.png")
    (photos / "p1.png").unlink()
    run(photos, out, CONFIG)
    assert [path.name for path in simpletuner.iterdir()] == [f"{hashed['p2']}.pt"]
    assert [path.name for path in ai_toolkit.iterdir()] == ["p2" + tail] and not index.exists()


def test_the_command_takes_several_and_says_what_each_gets_and_loses(tmp_path, capsys):
    photos = make(tmp_path)
    arguments = [str(photos), str(tmp_path / "out"), "--resolution", "512", "--export", "simpletuner,stock"]
    assert main([*arguments, "--export", "ai-toolkit"]) == 0
    said = capsys.readouterr().out.split("next:")[1]
    for name in ("simpletuner", "stock", "ai-toolkit"):
        assert EXPORTS[name].file in said and f"gets {EXPORTS[name].gets}; loses {EXPORTS[name].loses}" in said
    assert "concepts.json" not in said
    again = HsdConfig(export=("simpletuner", "stock", "ai-toolkit"))
    assert toml.load(tmp_path / "out" / "hsd_config.toml")["export"] == list(again.export)
    assert main([*arguments[:-1], "simpletunner"]) == 2
    assert "export 'simpletunner': did you mean simpletuner?" in capsys.readouterr().err


def paths_in(out: Path) -> list[str]:
    """All quoted paths of slices, masks and caches in what trainers read."""
    files = [out / export.file for export in EXPORTS.values()] + [out / "dataset_raw.toml"]
    words = [json.loads(word) for file in files for word in QUOTED.findall(file.read_text(encoding="utf-8"))]
    return [word for word in words if re.search(r"[/\\](\d_|cache_|photos_raw)", word)]


@pytest.mark.parametrize("copied", [True, False], ids=["beside the old one", "after the old one is gone"])
def test_a_data_set_names_its_new_place_when_it_was_moved(tmp_path, capsys, copied):
    photos, out, new = make(tmp_path), tmp_path / "out", tmp_path / 'rented "machine" \\ ü'
    run(photos, out, CONFIG)
    assert paths_in(out) and all(path.startswith(f"{out}/") for path in paths_in(out))
    shutil.copytree(out, new)
    before = {path.name: path.read_text(encoding="utf-8") for path in out.iterdir() if path.is_file()}
    if not copied:
        shutil.rmtree(out)
    edited = new / "concepts.json"
    edited.write_text(edited.read_text(encoding="utf-8").replace('"macro"', '"mine"'), encoding="utf-8")
    assert main(["--move", str(out), str(new)]) == 0
    assert "multidatabackend.json: 7 paths" in capsys.readouterr().out
    assert all(path.startswith(f"{new}/") for path in paths_in(new)) and '"mine"' in edited.read_text("utf-8")
    touched = [export.file for export in EXPORTS.values() if not is_untouched(new / export.file)]
    assert touched == ["concepts.json"], "what nobody edited is as if it had been written there"
    if copied:
        assert all((out / name).read_text(encoding="utf-8") == text for name, text in before.items())


def test_a_data_set_can_be_made_ready_for_a_machine_of_another_kind_before_it_goes_there(tmp_path):
    photos, out = make(tmp_path), tmp_path / "out"
    run(photos, out, CONFIG)
    assert main([str(out), "D:\\sets\\mine", "--move"]) == 0
    assert {path.split("1_m")[0] for path in paths_in(out) if "1_m" in path and "cache" not in path} == {
        "D:\\sets\\mine\\"
    }
    assert main(["D:\\sets\\mine", str(out), "--move"]) == 0
    assert all(path.startswith(f"{out}/") for path in paths_in(out))
    fresh = tmp_path / "fresh"
    run(photos, fresh, CONFIG)
    here, there = ((folder / "dataset.toml").read_text(encoding="utf-8") for folder in (out, fresh))
    assert here.split("\n")[2:] == there.replace(str(fresh), str(out)).split("\n")[2:]


def test_a_move_that_would_change_nothing_is_an_error(tmp_path, capsys):
    photos, out = make(tmp_path), tmp_path / "out"
    run(photos, out, CONFIG)
    assert main(["--move", "/somewhere/else", str(out)]) == 2
    assert "lies below /somewhere/else" in capsys.readouterr().err
    assert main(["--move", str(photos), str(tmp_path / "nowhere")]) == 2
    assert "give the folder where the data set was made" in capsys.readouterr().err
