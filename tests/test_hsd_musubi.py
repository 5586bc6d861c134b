"""What sga_kohya.hsd writes for musubi-tuner, and what it does to that trainer's caches."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toml
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.hsd import HsdConfig, LevelConfig, run
from sga_kohya.hsd.__main__ import main

CONFIG = HsdConfig(
    tuple(LevelConfig(name, 512, tau_up=tau) for name, tau in (("macro", 1.0), ("meso", 2.0), ("micro", 4.0))),
    batch_size=4,
    near_duplicates=-1,
)


def picture(seed: int, size: tuple[int, int] = (900, 700)) -> Image.Image:
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:] = np.linspace(60, 120, size[0]).astype(np.uint8)[None, :, None]
    pixels[size[1] // 8 : size[1] // 3, size[0] // 8 : size[0] // 3] = (220, 30, seed)
    return Image.fromarray(pixels)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, size in enumerate([(900, 700), (1024, 512), (512, 1024)]):
        picture(number, size).save(folder / f"p{number}.png")
        (folder / f"p{number}.txt").write_text("a caption")
    return folder


def read(out: Path) -> dict:
    return toml.loads((out / "dataset_musubi.toml").read_text(encoding="utf-8"))


def test_each_level_is_a_dataset_with_caches_of_its_own(photos, tmp_path):
    out = tmp_path / 'odd "name" \\ with # ünïcode'
    levels = (*CONFIG.levels[:2], LevelConfig("micro", 1024, ((1024, 1024),), tau_up=1.0, repeats=3))
    run(photos, out, HsdConfig(levels, batch_size=2, near_duplicates=-1))
    found = read(out)
    assert found["general"]["batch_size"] == 2 and found["general"]["caption_extension"] == ".txt"
    assert [(Path(d["image_directory"]), Path(d["cache_directory"])) for d in found["datasets"]] == [
        (out / name, out / "cache_musubi" / name) for name in ("1_macro", "1_meso")
    ]
    assert "# No micro slices" in (out / "dataset_musubi.toml").read_text(encoding="utf-8")


def test_no_slice_is_larger_than_the_area_that_musubi_tuner_keeps(photos, tmp_path):
    run(photos, tmp_path / "out", CONFIG)
    general = read(tmp_path / "out")["general"]
    area = np.prod(general["resolution"])
    sizes = [Image.open(file).size for file in (tmp_path / "out").glob("1_*/*.png")]
    assert general["enable_bucket"] and general["bucket_no_upscale"] and len(set(sizes)) > 2
    assert all(w % 64 == 0 and h % 64 == 0 and w * h <= area for w, h in sizes)


def test_caches_go_with_what_they_were_made_of_and_others_stay(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out, CONFIG)
    cache = out / "cache_musubi" / "1_macro"
    cache.mkdir(parents=True)
    stale = ["p0_0896x0704_f2k9b.safetensors", "p0_f2k9b_te.safetensors", "p1_0704x0384_wan.safetensors"]
    kept = ["p2_0384x0704_wan.safetensors", "p2_wan_te.safetensors", "p0_b_0896x0704_wan.safetensors", "p0_note.txt"]
    (out / "1_macro" / "p0_b.png").write_bytes(b"mine")
    for name in (*stale, *kept):
        (cache / name).write_bytes(b"cache")
    picture(200).save(photos / "p0.png")  # changed
    (photos / "p1.png").unlink()
    run(photos, out, CONFIG)
    assert sorted(path.name for path in cache.iterdir()) == sorted(kept)


def test_a_caption_alone_makes_caches_stale_too(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out, CONFIG)
    file = out / "cache_musubi" / "1_macro" / "p0_f2d_te.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"cache")
    (photos / "p0.txt").write_text("another caption")
    run(photos, out, CONFIG)
    assert not file.exists() and not (out / "cache_musubi").exists(), "empty folders go"


def test_a_file_of_another_hand_stands_in_the_way_and_an_edited_one_is_set_aside(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out, CONFIG)
    file = out / "dataset_musubi.toml"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("batch_size = 4", "batch_size = 1"), encoding="utf-8")
    result = run(photos, out, CONFIG)
    assert result.swept.aside == [out / "dataset_musubi.edited.toml"] and file.read_text(encoding="utf-8") == text
    file.write_text("[general]\n")
    with pytest.raises(SgaError, match=r"dataset_musubi\.toml was not written by"):
        run(photos, out, replace(CONFIG, batch_size=1))


def test_the_command_ends_with_what_to_do_next_for_either_trainer(photos, tmp_path, capsys):
    assert main([str(photos), str(tmp_path / "out"), "--resolution", "512"]) == 0
    end = capsys.readouterr().out.split("next:")[1]
    commands = [line.split("--dataset_config") for line in end.splitlines() if "--dataset_config" in line]
    assert [Path(words[1].strip()).name for words in commands] == ["dataset.toml", *["dataset_musubi.toml"] * 3]
    for words, word in zip(commands[1:], ("cache_latents", "cache_text_encoder", "sga_kohya.musubi"), strict=True):
        assert word in words[0]
