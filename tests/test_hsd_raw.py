"""dataset_raw.toml: the arm of the photos themselves has the same photos and words as the slices, and nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toml
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.hsd import HsdConfig, LevelConfig, pipeline, run
from sga_kohya.hsd.out.raw_folder import largest
from sga_kohya.hsd.out.summary import summarise

CONFIG = HsdConfig(
    tuple(LevelConfig(name, 512, tau_up=tau) for name, tau in (("macro", 1.0), ("meso", 2.0), ("micro", 4.0))),
    batch_size=4,
    near_duplicates=-1,
)


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:] = np.linspace(60, 120, size[0]).astype(np.uint8)[None, :, None]
    pixels[size[1] // 8 : size[1] // 3, size[0] // 8 : size[0] // 3] = (220, 30, seed)
    return Image.fromarray(pixels)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(1, (900, 700)).save(folder / "turned.jpg", exif=exif)
    picture(2, (640, 480)).convert("CMYK").save(folder / "below" / "inks.tif")
    picture(3, (400, 300)).save(folder / "small.png")
    picture(4, (90, 90)).save(folder / "tiny.png")
    (folder / "turned.txt").write_text("a turned photo")
    return folder


def pictures(out: Path) -> dict[str, Image.Image]:
    return {path.stem: Image.open(path) for path in sorted((out / "photos_raw").glob("*.png"))}


def test_the_raw_arm_has_every_photo_that_gave_slices_upright_and_with_the_same_words(photos, tmp_path):
    out = tmp_path / "out"
    result = run(photos, out, CONFIG)
    found = pictures(out)
    assert {name: image.size for name, image in found.items()} == {
        "turned": largest((700, 900), 512),
        "inks": largest((640, 480), 512),
        "small": (400, 300),
    }
    assert all(image.mode == "RGB" and np.prod(image.size) <= 512**2 for image in found.values())
    for name in found:
        words = (out / "photos_raw" / f"{name}.txt").read_text()
        assert words == (out / "1_macro" / f"{name}.txt").read_text() and words.strip()
    (dataset,) = toml.loads((out / "dataset_raw.toml").read_text())["datasets"]
    assert dataset["enable_bucket"] and dataset["batch_size"] == 4 and dataset["resolution"] == 512
    assert dataset["subsets"][0]["flip_aug"] and Path(dataset["subsets"][0]["image_dir"]) == out / "photos_raw"
    (musubi,) = toml.loads((out / "dataset_musubi_raw.toml").read_text())["datasets"]
    assert Path(musubi["image_directory"]) == out / "photos_raw"
    assert "raw      3 whole photos in dataset_raw.toml" in summarise(result, CONFIG)


def test_a_second_run_touches_only_what_changed_and_takes_away_its_caches(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out, CONFIG)
    raw = out / "photos_raw"
    caches = {name: raw / f"{name}_0512x0512_flux.npz" for name in ("turned", "small", "inks")}
    for cache in caches.values():
        cache.write_bytes(b"latents")
    before = {path.name: path.stat().st_mtime_ns for path in raw.glob("*.png")}
    picture(9, (400, 300)).save(photos / "small.png")
    (photos / "below" / "inks.tif").unlink()
    run(photos, out, CONFIG)
    after = {path.name: path.stat().st_mtime_ns for path in raw.glob("*.png")}
    assert after.keys() == {"turned.png", "small.png"}
    assert after["turned.png"] == before["turned.png"] and after["small.png"] != before["small.png"]
    assert caches["turned"].exists() and not caches["small"].exists() and not caches["inks"].exists()
    assert not (raw / "inks.txt").exists()


def test_a_copy_is_made_of_the_pixels_that_are_cut_and_one_made_later_is_the_same(photos, tmp_path, monkeypatch):
    decoded: list[bytes] = []
    decode = pipeline.decode_image
    monkeypatch.setattr(pipeline, "decode_image", lambda data: decoded.append(data) or decode(data))
    out = tmp_path / "out"
    run(photos, out, CONFIG)
    assert len(decoded) == len(set(decoded)) == 4
    before = {path: path.read_bytes() for path in (out / "photos_raw").glob("*.png")}
    for path in before:
        path.unlink()
    slices = {path: path.stat().st_mtime_ns for path in out.glob("1_*/*")}
    run(photos, out, CONFIG)
    assert {path: path.read_bytes() for path in before} == before
    assert {path: path.stat().st_mtime_ns for path in slices} == slices


def test_a_copy_that_was_edited_stays_when_its_photo_changes_and_is_not_tried_again(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out, CONFIG)
    picture(8, (200, 100)).save(out / "photos_raw" / "small.png")
    picture(9, (400, 300)).save(photos / "small.png")
    run(photos, out, CONFIG)
    assert pictures(out)["small"].size == (200, 100)
    assert run(photos, out, CONFIG).tally.reused == 4


def test_a_picture_of_another_hand_that_has_a_copy_s_name_stays_and_is_said(photos, tmp_path):
    out = tmp_path / "out"
    (out / "photos_raw").mkdir(parents=True)
    picture(8, (200, 100)).save(out / "photos_raw" / "small.png")
    (out / "photos_raw" / "turned.txt").write_text("my own\n")
    for _ in range(2):
        assert run(photos, out, CONFIG).foreign == ["photos_raw/small.png"]
    assert pictures(out)["small"].size == (200, 100)
    assert (out / "photos_raw" / "turned.txt").read_text() == "my own\n"


def test_a_run_that_gives_nothing_leaves_no_folder_of_copies(tmp_path):
    (tmp_path / "photos").mkdir()
    picture(4, (90, 90)).save(tmp_path / "photos" / "tiny.png")
    run(tmp_path / "photos", tmp_path / "out", CONFIG)
    assert not (tmp_path / "out" / "photos_raw").exists()


def test_words_edited_by_hand_reach_the_raw_arm_and_its_own_edited_files_stay(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out, CONFIG)
    (out / "1_macro" / "turned.txt").write_text("better words\n")
    (out / "photos_raw" / "small.txt").write_text("my own\n")
    (out / "photos_raw" / "mine.png").write_bytes((out / "photos_raw" / "small.png").read_bytes())
    before = {path: path.stat().st_mtime_ns for path in (out / "photos_raw").glob("*.png")}
    result = run(photos, out, CONFIG)
    assert (out / "photos_raw" / "turned.txt").read_text() == "better words\n"
    after = {path: path.stat().st_mtime_ns for path in (out / "photos_raw").glob("*.png")}
    assert after == before, "other words are no reason to make the picture anew"
    assert (out / "photos_raw" / "small.txt").read_text() == "my own\n"
    assert result.foreign == ["photos_raw/mine.png"]
    (photos / "small.png").unlink()
    run(photos, out, CONFIG)
    assert (out / "photos_raw" / "small.txt").exists() and not (out / "photos_raw" / "small.png").exists()


def test_a_photo_of_several_regions_has_the_words_that_were_written_for_all_of_it(photos, tmp_path):
    out = tmp_path / "out"
    (photos / "below" / "inks.tif").unlink()
    boxes = tmp_path / "boxes"
    boxes.mkdir()
    for name in ("turned", "small"):
        (boxes / f"{name}.txt").write_text("0 0.25 0.5 0.5 0.9\n0 0.75 0.5 0.5 0.9\n1 0.2 0.3 0.2 0.2\n")
    (boxes / "classes.txt").write_text("person\nface\n")
    options = {"annotations": str(boxes)}
    levels = (replace(CONFIG.coarsest, max_slices=2), *CONFIG.finer)
    split = replace(CONFIG, levels=levels, mode="split", detector="boxes", detector_options=options, min_size=128)
    run(photos, out, split)
    words = {path.stem: path.read_text() for path in (out / "photos_raw").glob("*.txt")}
    assert len(list((out / "1_macro").glob("turned*.png"))) == 2 and words["turned"] == "a turned photo\n"
    macros = [path.read_text() for path in (out / "1_macro").glob("small*.txt")]
    assert words["small"] in macros, "nobody wrote any for this one"


def test_a_kill_between_two_files_leaves_none_that_is_taken_for_the_user_s(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out, CONFIG)
    good = (out / "photos_raw" / "small.png").read_bytes()
    (out / "photos_raw" / "small.txt").unlink()
    (out / "photos_raw" / "small.png").write_bytes(good)
    result = run(photos, out, CONFIG)
    assert (out / "photos_raw" / "small.txt").is_file() and not result.foreign


def test_what_another_hand_wrote_is_not_replaced(photos, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "dataset_raw.toml").write_text("[[datasets]]\n")
    with pytest.raises(SgaError, match="dataset_raw.toml was not written by sga_kohya.hsd"):
        run(photos, out, CONFIG)
    inside = photos.rename(tmp_path / "photos_raw")
    with pytest.raises(SgaError, match="would write among the photos"):
        run(inside, tmp_path, CONFIG)
