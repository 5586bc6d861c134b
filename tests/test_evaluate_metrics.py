"""Metrics on tiny random CLIP and ViT models: known cosines, invariants, caching, near-copies."""

import csv
import io
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.__main__ import main
from sga_kohya.evaluate.measure.backbones import Backbone, cache_file
from sga_kohya.evaluate.measure.copies import References, hashes
from sga_kohya.evaluate.measure.metrics import (
    measure,
    metric_difference,
    metric_intervals,
    near_copies,
    prompt_means,
    read,
)
from sga_kohya.evaluate.plan.plan import Cell
from sga_kohya.evaluate.sample.images import all_images

from .evaluate_world import PROMPTS, make_plan, noise, write_clip, write_plan, write_vit


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbones")
    return {
        "clip": str(write_clip(folder / "clip")),
        "dino": str(write_vit(folder / "vit")),
        "further": [str(write_vit(folder / "other", 2))],
    }


def test_values_are_the_cosines_of_transformers_own_features(tmp_path, models):
    import torch
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    from sga_kohya.evaluate.sample.images import load

    plan = make_plan(tmp_path, metrics=models)
    scores = measure(plan, "cpu")
    assert scores.columns == ("CLIP-I", "CLIP-T", "DINO-I", "other-I")

    model, cell = CLIPModel.from_pretrained(models["clip"]).eval(), Cell("beta", "two", 2, 1)
    processor, tokenizer = (kind.from_pretrained(models["clip"]) for kind in (CLIPImageProcessor, CLIPTokenizer))
    shown = [load(path) for path in (all_images(plan)[cell], *plan.dataset("beta").references)]
    with torch.no_grad():
        images = model.get_image_features(**processor(shown, return_tensors="pt"))
        text = model.get_text_features(**tokenizer([PROMPTS[2]], padding="max_length", return_tensors="pt"))
    cosine = torch.nn.functional.cosine_similarity
    assert scores.values["CLIP-I"][cell] == pytest.approx(cosine(images[:1], images[1:]).mean().item(), abs=1e-5)
    assert scores.values["CLIP-T"][cell] == pytest.approx(cosine(images[:1], text).item(), abs=1e-5)
    assert read(plan) == scores
    with (plan.out / "metrics.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * 3 * 3 * 2
    assert scores.backbones[0]["preprocessing"]["size"] == {"shortest_edge": 32}


def test_identical_images_make_variants_equal_with_no_width(tmp_path, models):
    plan = make_plan(tmp_path, picture=lambda dataset, variant, prompt, seed: noise(prompt + 10 * seed), metrics=models)
    scores = measure(plan, "cpu")
    for column in scores.columns:
        values = [(found.value, found.low, found.high) for found in metric_intervals(plan, scores.values[column])]
        assert values[0] == pytest.approx(values[1]) and values[0] == pytest.approx(values[2])
        difference = metric_difference(plan, scores.values[column], "one", "three")
        assert (difference.value, difference.low, difference.high) == pytest.approx((0, 0, 0), abs=1e-7)


def test_a_copy_of_the_only_reference_scores_one_and_is_warned_of(tmp_path, models):
    def picture(dataset, variant, prompt, seed):
        views = {"one": noise(1001), "two": ImageOps.mirror(noise(1001)), "three": noise(7)}
        return views[variant]

    plan = make_plan(tmp_path, datasets=("alpha",), picture=picture, metrics=models)
    (tmp_path / "references" / "alpha" / "r1.png").unlink()
    plan = replace(plan, datasets=(replace(plan.datasets[0], references=plan.datasets[0].references[:1]),))
    scores = measure(plan, "cpu")
    assert scores.values["DINO-I"][Cell("alpha", "one", 0, 1)] == pytest.approx(1, abs=1e-5)
    copies = near_copies(plan, all_images(plan))
    assert {cell.variant for cell, *_ in copies} == {"one", "two"} and len(copies) == 12
    assert all(reference == "r0.png" and bits <= 8 for _, reference, bits in copies)


def test_the_command_line_prints_intervals_and_near_copies(tmp_path, models, capsys):
    write_plan(tmp_path, datasets=("alpha",), picture=lambda *_: noise(1001), metrics=models)
    assert main(["metrics", str(tmp_path / "plan.toml"), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^two +0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", said, re.MULTILINE)
    assert "warning: alpha/one/p01_s1.png is nearly a copy of r0.png (0 of 64 bits differ)" in said


def test_a_backbone_in_a_folder_is_relative_to_the_plan(tmp_path, models, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    names = {key: os.path.relpath(models[key], tmp_path) for key in ("clip", "dino")}
    plan = make_plan(tmp_path, datasets=("alpha",), metrics=names)
    monkeypatch.chdir(tmp_path / "elsewhere")
    scores = measure(plan, "cpu")
    assert [entry["model"] for entry in scores.backbones] == [names["clip"], names["dino"]]


def test_seeds_are_averaged_before_prompts(tmp_path):
    plan = make_plan(tmp_path, datasets=("alpha",))
    values = {
        cell: float(cell.seed == 1) + cell.prompt for v in plan.variants for cell in plan.cells(v, plan.datasets[0])
    }
    (unit,) = prompt_means(plan, values)
    assert np.array_equal(unit, [[0.5] * 3, [1.5] * 3, [2.5] * 3])


def test_embeddings_are_taken_from_disk_and_follow_the_content(tmp_path, models, monkeypatch):
    plan = make_plan(tmp_path, metrics=models)
    backbone = Backbone(models["dino"], "cpu", 4)
    files = list(all_images(plan).values())
    cache = cache_file(tmp_path, models["dino"])
    first = backbone.images(files, cache)
    asked = []
    embed = backbone._embed_images
    monkeypatch.setattr(backbone, "_embed_images", lambda paths: asked.extend(paths) or embed(paths))
    again = backbone.images(files, cache)
    assert not asked and all(np.array_equal(first[path], again[path]) for path in files)
    noise(12345).save(files[3])
    assert not np.array_equal(backbone.images(files, cache)[files[3]], first[files[3]]) and asked == [files[3]]


def test_long_prompts_and_unknown_models_are_said(tmp_path, models):
    backbone = Backbone(models["clip"], "cpu", 4)
    features, long = backbone.texts(["short", "very " * 30])
    assert features.shape == (2, 12) and long == ["very " * 30]
    with pytest.raises(SgaError, match="cannot be loaded"):
        Backbone(str(tmp_path / "none"), "cpu", 1)
    with pytest.raises(SgaError, match="no text encoder"):
        measure(make_plan(tmp_path, metrics=models | {"clip": models["dino"], "further": []}), "cpu")


def real_photos(folder):
    """Photos that the packages of the tests carry."""
    skimage = pytest.importorskip("skimage")
    ultralytics = pytest.importorskip("ultralytics")
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
    files = [Path(skimage.__file__).parent / "data" / name for name in names]
    files += [Path(ultralytics.__file__).parent / "assets" / name for name in ("zidane.jpg", "bus.jpg")]
    for file in files:
        ImageOps.contain(Image.open(file).convert("RGB"), (640, 640)).save(folder / f"{file.stem}.png")
    return sorted(folder.glob("*.png"))


def worn(image):
    """Another light and JPEG, as a model that learned a picture by heart gives it back."""
    buffer = io.BytesIO()
    ImageEnhance.Brightness(image).enhance(1.08).save(buffer, "JPEG", quality=80)
    return Image.open(buffer).convert("RGB")


def cut(image, share, left, top):
    """share: of width and height that stays. left, top: 0 to 1, where it lies."""
    width, height = round(image.width * share), round(image.height * share)
    x, y = round((image.width - width) * left), round((image.height - height) * top)
    return image.crop((x, y, x + width, y + height)).resize(image.size)


def test_a_copy_that_was_cut_mirrored_or_made_square_is_found_and_no_other_photo_is(tmp_path):
    files = real_photos(tmp_path)
    alone = {file: References([file]) for file in files}
    found = Counter()
    for file in files:
        image = Image.open(file)
        for kind, views in {
            "whole": [image, ImageOps.mirror(image), ImageOps.fit(image, (512, 512))],
            "cut by 10 %": [cut(image, 0.9, *place) for place in [(0, 0), (1, 0), (0.3, 0.8)]],
            "cut and mirrored": [ImageOps.mirror(cut(image, 0.9, *place)) for place in [(0.5, 0.5), (1, 1)]],
            "cut on one side": [image.crop((0, 0, round(image.width * 0.9), image.height))],
        }.items():
            for view in map(worn, views):
                bits = {other: references.nearest(view)[0] for other, references in alone.items()}
                found[kind] += bits.pop(file) <= 8
                found[f"{kind}, all"] += 1
                assert min(bits.values()) > 8, (file.name, kind)
    assert found["whole"] == found["whole, all"] == 18
    for kind in ("cut by 10 %", "cut and mirrored", "cut on one side"):
        assert found[kind] >= 0.9 * found[f"{kind}, all"], found


def test_a_hash_is_the_one_that_imagehash_makes():
    imagehash = pytest.importorskip("imagehash")
    for seed in range(5):
        image = noise(seed, (32, 32)).convert("L")  # of this size nothing is resized
        expected = np.where(imagehash.phash(image).hash, 1, -1).ravel()
        assert np.array_equal(hashes(np.asarray(image, float)[None])[0], expected)


def test_a_flat_picture_is_no_copy_of_a_photo_with_a_flat_part(tmp_path):
    image = noise(3, (200, 200))
    image.paste((200, 200, 200), (0, 0, 200, 170))
    image.save(tmp_path / "sky.png")
    for colour in ("black", "white", (200, 200, 200)):
        assert References([tmp_path / "sky.png"]).nearest(Image.new("RGB", (64, 64), colour))[0] > 8


def test_the_nearest_reference_is_named_whatever_the_shapes(tmp_path):
    for number in range(3):
        noise(number, (60 + 30 * number, 70)).save(tmp_path / f"{number}.png")
    references = References(sorted(tmp_path.glob("*.png")))
    assert [references.nearest(noise(n, (60 + 30 * n, 70))) for n in range(3)] == [(0, f"{n}.png") for n in range(3)]


DAMAGED = ["", "5", "{}", "[]", '{"columns": [], "rows": []}', '{"columns": ["a"], "rows": [[1]]}', "[" * 9999]


@pytest.mark.parametrize("content", DAMAGED, ids=[text[:30] for text in DAMAGED])
def test_scores_that_are_damaged_are_said_with_the_remedy(tmp_path, content):
    plan = make_plan(tmp_path)
    plan.out.mkdir()
    (plan.out / "metrics.json").write_text(content)
    with pytest.raises(SgaError, match="metrics.json is (damaged|of another plan): run `metrics` again"):
        read(plan)


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:200], lambda b: b[:-30], lambda b: b"PK" + b[9:]])
def test_embeddings_that_are_damaged_are_made_anew(tmp_path, models, damage, capsys):
    plan = make_plan(tmp_path, datasets=("alpha",))
    backbone, cache = Backbone(models["dino"], "cpu", 4), tmp_path / "cache.npz"
    files = list(all_images(plan).values())
    first = backbone.images(files, cache)
    cache.write_bytes(damage(cache.read_bytes()))
    again = backbone.images(files, cache)
    assert all(np.array_equal(first[path], again[path]) for path in files)
    assert "cache.npz is damaged" in capsys.readouterr().out
