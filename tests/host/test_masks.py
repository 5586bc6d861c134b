"""Masked loss on the real sd-scripts: the right mask with each image of each sub-batch, all else as without masks."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from sga_kohya.hsd import HsdConfig, LevelConfig, Slice, run

from . import tiny_flux, tiny_sdxl
from .data import LEVELS, MIXED, photos, with_masks, write_dataset
from .test_sga import assert_same_weights, of, slices, slices_on_disk, steps

FLUX, SDXL = "flux_train_network.py", "sdxl_train_network.py"
FLUX_FULL, SDXL_FULL = "flux_train.py", "sdxl_train.py"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """The first and the last photo are of one size, and make sub-batches of two."""
    groups, sizes = [LEVELS, ("macro", "micro"), LEVELS], MIXED[:2]
    return with_masks(write_dataset(tmp_path / "data", groups, sizes=sizes, attributes=False))


def arguments(script: str, models, dataset: Path, out: Path, **changes):
    changes = {"masked_loss": True, "max_train_epochs": 1} | changes
    if script in (SDXL, SDXL_FULL):
        return tiny_sdxl.train_args(script, dataset, out, **changes)
    return (tiny_flux.lora_args if script == FLUX else tiny_flux.finetune_args)(models, dataset, out, **changes)


def masks_on_disk(dataset: Path) -> dict[tuple[str, str], list[float]]:
    """(stem, level) -> the mean of the mask's halves, from 0 to 1."""
    return {
        (file.stem, file.parent.name.removeprefix("masks_1_")): [
            half.mean() / 255 for half in np.array_split(np.asarray(Image.open(file), float), 2, axis=1)
        ]
        for file in dataset.parent.glob("masks_*/*.png")
    }


def assert_masks_follow(batches: list[dict], dataset: Path) -> None:
    expected = masks_on_disk(dataset)
    for batch in batches:
        for name, mask, flipped in zip(slices([batch]), batch["masks"], batch["flippeds"], strict=True):
            assert mask == pytest.approx(expected[name][::-1] if flipped else expected[name], abs=1e-3)


def assert_eq_6(run) -> None:
    for events in steps(run):
        pairs = list(zip(of(events, "batch"), of(events, "backward"), strict=True))
        counts = Counter(level for batch, _ in pairs for _, level in slices([batch]))
        shares = [len(batch["captions"]) / counts[slices([batch])[0][1]] / len(counts) for batch, _ in pairs]
        for handed, *parts in zip(events[-1]["grads"], *(back["grads"] for _, back in pairs), strict=True):
            if handed is not None:
                expected = sum(share * part.double() for share, part in zip(shares, parts, strict=True))
                torch.testing.assert_close(handed.double(), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("script", [FLUX, SDXL, SDXL_FULL])
def test_masks_follow_their_images_and_the_gradient_is_that_of_eq_6(run_host, tiny_models, dataset, tmp_path, script):
    dataset.write_text(dataset.read_text().replace("num_repeats", "flip_aug = true\nnum_repeats"))
    run = run_host(script, "sga", arguments(script, tiny_models, dataset, tmp_path / "out"), record=True)
    batches = of(run.events[0], "batch")
    assert Counter(slices(batches)) == Counter(slices_on_disk(dataset))
    assert any(len(batch["captions"]) > 1 for batch in batches)
    assert_masks_follow(batches, dataset)
    assert_eq_6(run)
    with safe_open(tmp_path / "out" / "tiny.safetensors", "pt") as file:
        assert file.metadata()["ss_sga_groups_by_k"] == "3:2,2:1"


@pytest.mark.parametrize("script", [FLUX, SDXL])
def test_masked_and_switched_off_equals_stock_bit_for_bit(run_host, tiny_models, dataset, tmp_path, script):
    few = {"max_train_epochs": None, "max_train_steps": 2}
    run_host(script, "stock", arguments(script, tiny_models, dataset, tmp_path / "stock", **few))
    run_host(script, "sga", arguments(script, tiny_models, dataset, tmp_path / "off", sga="false", **few))
    assert_same_weights(tmp_path / "stock" / "tiny.safetensors", tmp_path / "off" / "tiny.safetensors")


def test_masked_batches_without_tuples_are_those_of_stock(run_host, tiny_models, dataset, tmp_path):
    stock = run_host(FLUX, "stock", arguments(FLUX, tiny_models, dataset, tmp_path / "a"), record=True)
    args = arguments(FLUX, tiny_models, dataset, tmp_path / "b", sga_tuples="false")
    ours = run_host(FLUX, "sga", args, record=True)
    for name in ("captions", "masks"):
        assert [batch[name] for batch in ours.of("batch")] == [batch[name] for batch in stock.of("batch")]
    assert not all(map(torch.equal, *([e["sigmas"] for e in run.of("timesteps")] for run in (ours, stock))))


def test_masks_compose_with_caches_workers_a_split_and_attributes(run_host, tiny_models, tmp_path):
    """Granularities come from custom_attributes here, which the host loses on its way to datasets with masks."""
    dataset = with_masks(write_dataset(tmp_path / "data", [LEVELS] * 4))
    for level in LEVELS:
        for kind in ("1_", "masks_1_"):
            (tmp_path / "data" / f"{kind}{level}").rename(tmp_path / "data" / f"{kind}{level[:2]}")
            dataset.write_text(dataset.read_text().replace(f'{kind}{level}"', f'{kind}{level[:2]}"'))
    caches = dict.fromkeys(["cache_latents", "cache_latents_to_disk", "cache_text_encoder_outputs"], True)
    workers = {"max_data_loader_n_workers": 2, "persistent_data_loader_workers": True}
    options = {**caches, **workers, "validation_split": 0.25, "max_train_epochs": 2}
    run = run_host(FLUX, "sga", arguments(FLUX, tiny_models, dataset, tmp_path / "out", **options), record=True)
    assert "3: 3 with K=3" in run.output
    assert "held out  3 images for validation: 3 of 12 of dataset 1 (validation_split 0.25)" in run.output
    trained, validated = (
        Counter(slices([batch for batch in run.of("batch") if batch["loader"] == loader])) for loader in (0, 1)
    )
    assert set(trained.values()) == {2} and len(trained) == 9
    assert len(validated) == 3 and {stem for stem, _ in trained}.isdisjoint(stem for stem, _ in validated)
    for batch in run.of("batch"):
        assert [known["granularity"] for known in batch["custom_attributes"]] == [level for _, level in slices([batch])]


def test_a_masked_run_is_resumed_bit_for_bit_and_captions_know_the_epoch(run_host, tiny_models, dataset, tmp_path):
    """Two epochs of two steps; captions are dropped in every second one, resumed or not."""
    usual = {"max_train_epochs": None, "max_train_steps": 4, "save_state": True, "save_every_n_steps": 2}
    text = dataset.read_text()
    dataset.write_text(text.replace("num_repeats", "caption_dropout_every_n_epochs = 2\nflip_aug = true\nnum_repeats"))
    args = arguments(FLUX, tiny_models, dataset, tmp_path / "whole", **usual)
    whole = [of(step, "batch") for step in steps(run_host(FLUX, "sga", args, record=True))]
    assert_masks_follow([batch for step in whole[:2] for batch in step], dataset)
    state = tmp_path / "whole" / "tiny-step00000002-state"
    again = arguments(FLUX, tiny_models, dataset, tmp_path / "again", resume=state, **usual)
    resumed = [of(step, "batch") for step in steps(run_host(FLUX, "sga", again, record=True))]
    for name in ("captions", "masks", "flippeds"):
        named = [[[batch[name] for batch in step] for step in run] for run in (resumed, whole[2:])]
        assert named[0] == named[1]
    assert {caption for step in resumed for batch in step for caption in batch["captions"]} == {""}
    assert_same_weights(tmp_path / "whole" / "tiny.safetensors", tmp_path / "again" / "tiny.safetensors")


def stem_and_level(piece: Slice) -> str:
    return f"{Path(piece.file).stem} {piece.level}"


@pytest.mark.parametrize("masks", ["alpha", "folder"])
def test_photos_cut_with_their_masks_train_with_masked_loss(run_host, tiny_models, tmp_path, masks):
    """What `python -m sga_kohya.hsd --masks` writes, as it is: one photo hidden on the left, one on the right."""
    folder, out = tmp_path / "photos", tmp_path / "out"
    for kind in (folder, tmp_path / "masks"):
        kind.mkdir()
    for number, file in enumerate(photos()[:2]):
        photo = Image.open(file).convert("RGBA").resize((300, 220))
        mask = Image.new("L", photo.size)
        mask.paste(255, (150 * number, 0, 150 + 150 * number, 220))
        photo.putalpha(mask)
        photo.save(folder / f"p{number}.png")
        mask.save(tmp_path / "masks" / f"p{number}.png")
    levels = tuple(LevelConfig(level, 128, tau_up=4.0) for level in LEVELS)
    where = "alpha" if masks == "alpha" else str(tmp_path / "masks")
    words = {"captioner": f"{__name__}:stem_and_level", "captioner_options": {"keep": "nothing"}}
    run(folder, out, HsdConfig(levels, min_size=64, masks=where, near_duplicates=-1, **words))
    dataset = out / "dataset.toml"
    hosted = run_host(FLUX, "sga", arguments(FLUX, tiny_models, dataset, tmp_path / "trained"), record=True)
    batches = hosted.of("batch")
    assert Counter(slices(batches)) == Counter(slices_on_disk(dataset)) and len(batches) >= 4
    found = {name: mask for batch in batches for name, mask in zip(slices([batch]), batch["masks"], strict=True)}
    assert found[("p0", "macro")] == pytest.approx([1, 0], abs=0.05)
    assert found[("p1", "macro")] == pytest.approx([0, 1], abs=0.05)
    if masks == "folder":
        assert_masks_follow(batches, dataset)
