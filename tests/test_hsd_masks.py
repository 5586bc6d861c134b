"""sga_kohya.hsd: what of a photo counts is cut with it, and said to the trainers."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toml
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.hsd import Box, Detection, HsdConfig, LevelConfig, View, run
from sga_kohya.hsd.__main__ import main
from sga_kohya.hsd.detect import DETECTORS
from sga_kohya.hsd.masks.slices import Drawing
from sga_kohya.hsd.masks.sources import UnreadableMask, read_mask
from sga_kohya.hsd.out.summary import warnings
from tests.test_hsd_resume import picture
from tests.test_hsd_run import rows_of, snapshot
from tests.trainers import TRAINERS

LEVELS = (LevelConfig("macro", 256, tau_up=1.0), LevelConfig("micro", 256))
SIZE = 700, 512
PLACE = Box(350, 0, 700, 512)
"""What counts in the photos here: the right half."""


def alpha_of(box: Box = PLACE, size: tuple[int, int] = SIZE) -> Image.Image:
    """255 inside the box, 0 outside."""
    mask = np.zeros(size[::-1], np.uint8)
    mask[box.y0 : box.y1, box.x0 : box.x1] = 255
    return Image.fromarray(mask)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """`clear` is transparent on the left, `whole` is not; `clear` also lies in a sub-folder, turned by EXIF."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    clear = picture(0, *SIZE).convert("RGBA")
    clear.putalpha(alpha_of())
    clear.save(folder / "clear.png", compress_level=1)
    picture(1, *SIZE).save(folder / "whole.png", compress_level=1)
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = picture(2, *SIZE).convert("RGBA")
    turned.putalpha(alpha_of())
    turned.save(folder / "sub" / "clear.png", exif=exif, compress_level=1)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Masks of the photos but one, a smaller one among them."""
    masks = tmp_path / "masks"
    (masks / "sub").mkdir(parents=True)
    alpha_of().save(masks / "clear.png")
    alpha_of(Box(0, 0, 175, 256), (350, 256)).save(masks / "sub" / "clear.webp", lossless=True)
    return masks


class Painter:
    """Finds the right half of every view, and draws an ellipse in it."""

    name, draws_masks = "painter", True

    def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
        return [self._half(view, level) for view in views]

    def _half(self, view: View, level: str) -> list[Detection]:
        if "sub/" in view.source:
            return []
        width, height = view.size
        box = Box(width // 2, 0, width, height)
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : box.width * 1j]
        return [Detection(box, 1.0, level, "thing", (x**2 + y**2 < 0.8).astype(np.uint8) * 255)]


@pytest.fixture
def painter(monkeypatch) -> None:
    def create(options, photos):
        options.finish()
        return Painter()

    monkeypatch.setitem(DETECTORS, "painter", create)


def config(**changes: object) -> HsdConfig:
    return replace(HsdConfig(LEVELS, min_size=128, near_duplicates=-1), **changes)


def files(out: Path, pattern: str) -> dict[str, np.ndarray]:
    return {path.relative_to(out).as_posix(): np.asarray(Image.open(path)) for path in sorted(out.glob(pattern))}


def subsets(out: Path) -> list[dict]:
    return toml.loads((out / "dataset.toml").read_text())["datasets"][0]["subsets"]


def expected(row: dict, box: Box = PLACE) -> np.ndarray:
    """Where a slice counts, if its photo counts inside the box."""
    left, top, right, bottom = row["box"]
    part = alpha_of(box).crop((left, top, right, bottom))
    return np.asarray(part.resize(row["size"], Image.Resampling.BOX))


def assert_masks(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape and np.abs(found.astype(int) - wanted).mean() < 2


def test_by_default_transparency_is_laid_on_white_and_the_remedy_is_said(photos, tmp_path):
    result = run(photos, tmp_path / "out", config())
    assert {image.shape[2] for image in files(tmp_path / "out", "1_*/*.png").values()} == {3}
    assert not {"alpha_mask", "conditioning_data_dir"} & set(subsets(tmp_path / "out")[0])
    told = "2 photos, transparency laid on white: clear.png, sub/clear.png; --masks alpha keeps it, for masked loss"
    assert told in list(warnings(result, config()))
    assert not [told for told in warnings(result, config(masks="alpha")) if "transparency" in told]
    assert not list(tmp_path.glob("out/masks_*"))


@pytest.mark.parametrize("form", ["png", "webp"])
def test_alpha_is_kept_in_the_slices_over_the_very_picture_of_a_run_without(photos, tmp_path, form):
    out, flat = tmp_path / "out", tmp_path / "flat"
    run(photos, out, config(masks="alpha", format=form))
    run(photos, flat, config(format=form))
    with_alpha, without = (files(place, f"1_*/*.{form}") for place in (out, flat))
    assert all(subset["alpha_mask"] is True for subset in subsets(out)) and len(subsets(out)) == 2
    checked = 0
    for row in filter(lambda row: row["file"], rows_of(out)):
        found, plain = with_alpha[row["file"]].astype(int), without[row["file"]].astype(int)
        if row["source"] == "whole.png":
            # WebP drops a channel that says nothing; ai-toolkit asks every slice for it.
            assert form == "webp" or (found[..., 3] == 255).all()
            continue
        assert np.abs(found[..., :3] - plain).mean() < (0.01 if form == "png" else 4), "what musubi-tuner reads, too"
        place = PLACE if row["source"] == "clear.png" else Box(0, 0, 350, 512)
        assert_masks(found[..., 3], expected(row, place))
        checked += 0 < found[..., 3].mean() < 255
    assert checked >= 2
    before = snapshot(out)
    run(photos, out, config(masks="alpha", format=form))
    assert snapshot(out) == before


def test_a_folder_of_masks_is_cut_with_the_photos(photos, folder, tmp_path):
    out = tmp_path / "out"
    alpha_of().save(folder / "stranger.png")
    result = run(photos, out, config(masks=str(folder)))
    assert "1 mask is of no photo, or of one that has another mask: stranger.png" in list(warnings(result, config()))
    slices, masks = files(out, "1_*/*.png"), files(out, "masks_1_*/*.png")
    assert {f"masks_{name}" for name in slices} == set(masks), "sd-scripts wants one for each"
    for row in filter(lambda row: row["file"], rows_of(out)):
        mask = masks[f"masks_{row['file']}"]
        assert list(mask.shape[::-1]) == row["size"] and slices[row["file"]].shape[2] == 3
        places = {"clear.png": PLACE, "sub/clear.png": Box(0, 0, 350, 512), "whole.png": Box(0, 0, *SIZE)}
        assert_masks(mask, expected(row, places[row["source"]]))
        assert row["mask_sha256"] == hashlib.sha256((out / f"masks_{row['file']}").read_bytes()).hexdigest()
    assert [subset["conditioning_data_dir"] for subset in subsets(out)] == [
        str(out / f"masks_1_{level.name}") for level in LEVELS
    ]
    assert "no masked loss" in (out / "dataset_musubi.toml").read_text()
    assert "1 photo, no mask, all of it counts: whole.png" in list(warnings(result, config()))


def test_a_mask_that_changes_is_cut_again_and_no_other(photos, folder, tmp_path):
    out = tmp_path / "out"
    run(photos, out, config(masks=str(folder)))
    before = snapshot(out)
    assert run(photos, out, config(masks=str(folder))).tally.reused == 3 and snapshot(out) == before
    alpha_of(Box(350, 0, 700, 300)).save(folder / "clear.png")
    (out / "masks_1_macro" / "whole.png").unlink()
    assert run(photos, out, config(masks=str(folder))).tally.reused == 1
    after = snapshot(out)
    changed = {name for name in after if after[name] != before[name] and name.endswith("png")}
    assert changed - {"masks_1_micro/clear.png"} == {"masks_1_macro/clear.png", "masks_photos_raw/clear.png"}


def test_masks_are_ours_until_edited_and_go_when_they_are_wanted_no_more(photos, folder, tmp_path):
    out = tmp_path / "out"
    run(photos, out, config(masks=str(folder)))
    mine = out / "masks_1_macro" / "clear.png"
    alpha_of(Box(0, 0, 9, 9), (256, 192)).save(mine)
    edited, other = mine.read_bytes(), out / "masks_1_macro" / "other.png"
    other.write_bytes(b"not ours")
    result = run(photos, out, config(masks=str(folder), duplicate_overlap=0.5))
    assert mine.read_bytes() == edited and result.edited == ["masks_1_macro/clear.png"] and not result.foreign
    assert any("1 mask was edited here and stays that way" in told for told in warnings(result, config()))
    result = run(photos, out, config())
    assert result.swept.left == ["masks_1_macro/clear.png"]
    assert {path.name for path in out.glob("masks_*/*")} == {"clear.png", "other.png"}


def test_what_a_detector_draws_becomes_the_photos_mask(photos, painter, tmp_path):
    out = tmp_path / "out"
    result = run(photos, out, config(masks="detector", detector="painter"))
    masks = files(out, "masks_1_*/*.png")
    drawn = masks["masks_1_macro/clear.png"] / 255
    share = 0.8 * np.pi / 4
    assert drawn[:, :120].mean() < 0.01 and abs(drawn[:, 128:].mean() - share) < 0.03
    assert abs(masks["masks_1_micro/clear.png"].mean() / 255 - share) < 0.1
    assert (masks["masks_1_macro/sub-clear.png"] == 255).all()
    told = list(warnings(result, config()))
    assert "1 photo, the detector drew no mask, all of it counts: sub/clear.png" in told


def raw_subset(out: Path) -> dict:
    return toml.loads((out / "dataset_raw.toml").read_text())["datasets"][0]["subsets"][0]


def test_the_photos_own_copies_have_their_transparency_where_slices_have(photos, tmp_path):
    out, flat = tmp_path / "out", tmp_path / "flat"
    run(photos, out, config(masks="alpha"))
    run(photos, flat, config())
    copies, without = files(out, "photos_raw/*.png"), files(flat, "photos_raw/*.png")
    assert raw_subset(out)["alpha_mask"] is True and not {"alpha_mask", "conditioning_data_dir"} & set(raw_subset(flat))
    assert not list(out.glob("masks_*"))
    for name, place in (("clear", PLACE), ("sub-clear", Box(0, 0, 350, 512)), ("whole", Box(0, 0, *SIZE))):
        copy, plain = (found[f"photos_raw/{name}.png"] for found in (copies, without))
        assert (copy[..., :3] == plain).all() and plain.shape[2] == 3
        assert_masks(copy[..., 3], np.asarray(alpha_of(place).resize(copy.shape[1::-1], Image.Resampling.BOX)))


def test_the_photos_own_copies_have_a_mask_of_their_size_beside_them(photos, folder, tmp_path):
    out = tmp_path / "out"
    run(photos, out, config(masks=str(folder)))
    copies, masks = files(out, "photos_raw/*.png"), files(out, "masks_photos_raw/*.png")
    assert {f"masks_{name}" for name in copies} == set(masks), "sd-scripts wants one for each"
    assert raw_subset(out)["conditioning_data_dir"] == str(out / "masks_photos_raw")
    assert "no masked loss" in (out / "dataset_musubi_raw.toml").read_text()
    for name, place in (("clear", PLACE), ("sub-clear", Box(0, 0, 350, 512)), ("whole", Box(0, 0, *SIZE))):
        mask = masks[f"masks_photos_raw/{name}.png"]
        assert mask.shape == copies[f"photos_raw/{name}.png"].shape[:2]
        assert_masks(mask, np.asarray(alpha_of(place).resize(mask.shape[::-1], Image.Resampling.BOX)))
    mine = out / "masks_photos_raw" / "clear.png"
    alpha_of(Box(0, 0, 9, 9), mask.shape[::-1]).save(mine)
    edited = mine.read_bytes()
    run(photos, out, config(masks=str(folder), duplicate_overlap=0.5))
    assert mine.read_bytes() == edited, "a mask that was edited stays"
    result = run(photos, out, config())
    assert result.swept.left == ["masks_photos_raw/clear.png"] and "conditioning_data_dir" not in raw_subset(out)
    assert [path.name for path in out.glob("masks_*/*")] == ["clear.png"]


def test_what_a_detector_draws_is_the_mask_of_the_photos_copy_and_changes_nothing_else_of_it(photos, painter, tmp_path):
    out = tmp_path / "out"
    run(photos, out, config(masks="detector", detector="painter"))
    mask = files(out, "masks_photos_raw/*.png")["masks_photos_raw/clear.png"] / 255
    assert (
        mask[:, : mask.shape[1] // 2].mean() < 0.01 and abs(mask[:, mask.shape[1] // 2 :].mean() - 0.2 * np.pi) < 0.03
    )
    cache = out / "photos_raw" / "clear_0256x0192_flux.npz"
    cache.write_bytes(b"latents")
    before = {path: path.stat().st_mtime_ns for path in out.glob("*photos_raw/*.*") if path.suffix != ".jsonl"}
    run(photos, out, config(masks="detector", detector="painter", duplicate_overlap=0.5))
    assert {path: path.stat().st_mtime_ns for path in before} == before, "cache and pictures: nothing is written anew"
    (out / "masks_photos_raw" / "clear.png").unlink()
    run(photos, out, config(masks="detector", detector="painter", duplicate_overlap=0.5))
    assert (files(out, "masks_photos_raw/*.png")["masks_photos_raw/clear.png"] / 255 == mask).all()
    assert not cache.exists(), "it was made with another mask"


def test_what_is_drawn_in_parts_of_a_photo_is_put_together_where_it_was_seen():
    drawing = Drawing(Painter())
    for x0 in (10, 50):
        view = View(np.zeros((20, 30, 3), np.uint8), "a.png", Box(x0, 5, x0 + 30, 25), (100, 40))
        drawing.detect([view], "micro")
    drawn = drawing.of("a.png")
    (rows, columns) = np.nonzero(drawn)
    assert drawn.shape == (40, 100) and (rows.min(), rows.max()) == (7, 22)
    assert set(columns) == {*range(26, 39), *range(66, 79)}
    assert drawing.of("b.png") is None


def test_a_slice_in_which_nothing_counts_is_no_slice(photos, folder, painter, tmp_path):
    alpha_of(Box(0, 0, 300, 512)).save(folder / "clear.png")
    run(photos, tmp_path / "out", config(masks=str(folder), detector="painter"))
    (row,) = [row for row in rows_of(tmp_path / "out") if row["source"] == "clear.png" and not row["file"]]
    assert row["reason"] == "masked out: 0.0% of it counts, below 1%" and row["granularity"] == "micro"
    assert not (tmp_path / "out" / "masks_1_micro" / "clear.png").exists()


def test_a_mask_of_another_shape_is_refused_by_name_and_its_photo_left_out(photos, folder, tmp_path):
    alpha_of(Box(0, 0, 9, 9), (512, 700)).save(folder / "clear.png")
    (folder / "sub" / "clear.webp").write_bytes(b"no picture")
    result = run(photos, tmp_path / "out", config(masks=str(folder)))
    (told,) = [told for told in warnings(result, config()) if "unreadable mask" in told]
    assert "2 photos were skipped, unreadable mask" in told and "clear.webp: Pillow cannot identify it" in told
    assert "clear.png is 512x700, of another shape than the photo, 700x512" in told


def test_what_is_transparent_in_a_mask_does_not_count(tmp_path):
    mask = Image.new("LA", (4, 2), (200, 255))
    mask.putpixel((0, 0), (255, 0))
    mask.save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png", (4, 2)).tolist() == [[0, 200, 200, 200], [200] * 4]
    with pytest.raises(UnreadableMask, match="of another shape"):
        read_mask(tmp_path / "a.png", (4, 3))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--masks", "nowhere"], "masks 'nowhere': no such folder; use alpha, detector, or a folder of masks"),
        (
            ["--masks", "alpha", "--format", "jpg"],
            "masks 'alpha': a JPEG holds no transparency, use format png or webp",
        ),
        (["--masks", "detector"], "masks detector: detector heuristic draws none with these options: use onnx or yolo"),
        (["--masks", "."], "none has the name of a photo, such as clear.png: give each mask its photo's sub-folder"),
    ],
)
def test_what_cannot_be_masks_is_refused_before_any_photo_is_read(
    photos, tmp_path, arguments, words, monkeypatch, capsys
):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert main([str(photos), str(tmp_path / "out"), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_masks_of_a_file_lie_beside_it_and_the_training_command_asks_for_the_loss(photos, folder, tmp_path, capsys):
    with pytest.raises(SgaError, match="masks: it is set once, for all photos"):
        run(photos, tmp_path / "out", config(overrides={"sub": config(masks="alpha")}))
    file = folder.parent / "my.toml"
    file.write_text('masks = "masks"\nlevels = ["macro", "micro"]\nresolution = 256\nmin_size = 128\n')
    assert main([str(photos), str(tmp_path / "out"), "--config", str(file)]) == 0
    assert "dataset.toml --masked_loss" in capsys.readouterr().out
    assert toml.loads((tmp_path / "out" / "hsd_config.toml").read_text())["masks"] == str(folder)
    with pytest.raises(SgaError, match="masks"):
        run(photos, folder / "1_macro", config(masks=str(folder.parent / "no")))


def test_trainers_that_know_masks_are_told_where_they_are(photos, folder, tmp_path):
    export = ("ai-toolkit", "diffusion-pipe", "simpletuner")
    beside, inside = tmp_path / "beside", tmp_path / "inside"
    run(photos, beside, config(masks=str(folder), export=export))
    run(photos, inside, config(masks="alpha", export=export))
    micro = str(beside / "masks_1_micro")
    assert toml.loads((beside / "dataset_diffusion_pipe.toml").read_text())["directory"][1]["mask_path"] == micro
    assert f'          mask_path: "{micro}"\n' in (beside / "ai_toolkit.yaml").read_text()
    assert (inside / "ai_toolkit.yaml").read_text().count("          alpha_mask: true\n") == 2
    assert "all of each slice counts" in (inside / "dataset_diffusion_pipe.toml").read_text()
    assert "conditioning" not in (inside / "multidatabackend.json").read_text()


def test_simpletuner_finds_the_mask_of_each_slice_by_its_own_code(photos, folder, tmp_path):
    root, out = TRAINERS / "SimpleTuner", tmp_path / "out"
    if not root.is_dir():
        pytest.skip(f"no copy of SimpleTuner at {root}")
    run(photos, out, config(masks=str(folder), export=("simpletuner",)))
    slices = sorted(str(path) for level in LEVELS for path in (out / f"1_{level.name}").glob("*.png"))
    command = [sys.executable, str(Path(__file__).parent / "trainers.py"), "simpletuner-masks"]
    command += [str(out / "multidatabackend.json"), json.dumps(slices)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("FOUND "))
    assert json.loads(line.removeprefix("FOUND ")) == [path.replace("/1_", "/masks_1_") for path in slices]


def test_what_a_trainer_does_without_the_masks_is_said(photos, folder, tmp_path, capsys):
    words = [str(photos), str(tmp_path / "out"), "--resolution", "256", "--levels", "macro,micro"]
    words += ["--export", "onetrainer,simpletuner", "--masks", str(folder), "--format", "webp"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "seeks them as STEM-masklabel.png among the slices, so all of each slice counts" in said
    assert "none from transparency or for other formats" in said
    assert "conditioning" not in (tmp_path / "out" / "multidatabackend.json").read_text(), "not found by it"
    assert main([*words[:-4], "--no-drop_tags"]) == 0
    assert "masklabel" not in capsys.readouterr().out


def test_simpletuners_index_of_masks_goes_with_the_slices(photos, folder, tmp_path):
    out, wanted = tmp_path / "out", config(masks=str(folder), export=("simpletuner",))
    run(photos, out, wanted)
    index = out / "masks_1_macro" / "aspect_ratio_bucket_indices_sga-macro-masks.json"
    index.write_text("{}")
    (out / "cache_simpletuner" / "1_macro").mkdir(parents=True)
    (out / "cache_simpletuner" / "1_macro" / "latent.pt").touch()
    run(photos, out, wanted)
    assert index.exists(), "nothing changed"
    picture(9, *SIZE).save(photos / "whole.png")
    run(photos, out, wanted)
    assert not index.exists()


def test_masks_below_photos_are_no_photos_and_what_was_made_is_no_mask(photos, folder, tmp_path):
    inside = photos / "masks"
    folder.rename(inside)
    made = run(photos, inside / "out", config(masks=str(inside)))
    again = run(photos, inside / "out", config(masks=str(inside)))
    assert (made.tally.photos, again.tally.reused) == (3, 3) and not again.stray_masks
    with pytest.raises(SgaError, match="these are the photos: give the masks a folder of their own"):
        run(photos, tmp_path / "out", config(masks=str(photos)))


def test_a_mask_of_zeros_and_ones_is_refused_as_it_would_hide_all(tmp_path):
    Image.fromarray(np.eye(4, dtype=np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(UnreadableMask, match=r"a\.png has no pixel above 1 of 255: write what counts as 255"):
        read_mask(tmp_path / "a.png", (4, 4))
