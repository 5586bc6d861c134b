"""The real sd-scripts, trained through our doors on the tiny stack: what SGA changes, and what it leaves alone."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from .data import LEVELS, SQUARE, write_dataset, write_plain_dataset
from .tiny_flux import dora_args, finetune_args, lora_args

LORA, FULL = "flux_train_network.py", "flux_train.py"
MIXED_K = [LEVELS] * 3 + [("macro", "micro")] * 2 + [("meso", "micro"), ("macro",), ("micro",)]
DELTA = {"macro": 0.5, "meso": 0.0, "micro": -0.5}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", MIXED_K)


def slices(batches: list[dict]) -> list[tuple[str, str]]:
    """(stem, level) of every sample, from the captions that tests/host/data.py writes."""
    return [tuple(caption.split()) for batch in batches for caption in batch["captions"]]


def steps(run, rank: int = 0) -> list[list[dict]]:
    """Training events of each optimizer step."""
    found: list[list[dict]] = [[]]
    for event in run.events[rank]:
        if event.get("loader", 0) == 0:
            found[-1].append(event)
        if event["kind"] == "step":
            found.append([])
    return found[:-1]


def of(events: list[dict], kind: str) -> list[dict]:
    return [event for event in events if event["kind"] == kind]


def assert_same_weights(left: Path, right: Path) -> None:
    ours, theirs = load_file(left), load_file(right)
    assert ours.keys() == theirs.keys() and ours
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


@pytest.mark.parametrize("script", [LORA, FULL])
def test_switched_off_equals_stock_bit_for_bit(run_host, tiny_models, dataset, tmp_path, script):
    arguments = lora_args if script == LORA else finetune_args
    run_host(script, "stock", arguments(tiny_models, dataset, tmp_path / "stock"))
    off = {"whole": {"sga": "false"}, "both": {"sga_tuples": "false", "sga_modulation": "false"}}
    for name, options in off.items():
        run = run_host(script, "sga", arguments(tiny_models, dataset, tmp_path / name, **options))
        assert "SGA tuple plan" not in run.output
        assert_same_weights(tmp_path / "stock" / "tiny.safetensors", tmp_path / name / "tiny.safetensors")


@pytest.mark.parametrize("workers", [0, 2])
def test_every_step_holds_whole_groups_and_every_epoch_every_slice_once(
    run_host, tiny_models, dataset, tmp_path, workers
):
    options = {
        "max_train_epochs": 3,
        "max_data_loader_n_workers": workers,
        "persistent_data_loader_workers": workers > 0,
    }
    run = run_host(LORA, "sga", lora_args(tiny_models, dataset, tmp_path, **options), record=True)
    expected = Counter((stem, level) for stem, levels in groups_on_disk(dataset).items() for level in levels)
    trained = [slices(of(step, "batch")) for step in steps(run)]
    assert len(trained) % 3 == 0
    epochs = [trained[start : start + len(trained) // 3] for start in range(0, len(trained), len(trained) // 3)]
    orders = set()
    for epoch in epochs:
        assert Counter(item for step in epoch for item in step) == expected
        orders.add(json.dumps(epoch))
        for step in epoch:
            kinds = {frozenset(groups_on_disk(dataset)[stem]) for stem, _ in step}
            assert len(kinds) == 1, f"groups of different granularities in one step: {step}"
            for stem, _ in step:
                assert {level for other, level in step if other == stem} == kinds.copy().pop()
    assert len(orders) == 3, "epochs repeat each other's plan"


def groups_on_disk(dataset: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for image in dataset.parent.glob("1_*/*.png"):
        found.setdefault(image.stem, set()).add(image.parent.name.removeprefix("1_"))
    return found


@pytest.mark.parametrize(
    ("script", "options"),
    [
        (LORA, {}),
        (LORA, {"gradient_accumulation_steps": 2, "sga_groups_per_step": 1}),
        (LORA, {"sga_loss_weight": "macro:2,micro:0.5", "sga_tuple_reduction": "sum"}),
        (FULL, {}),
    ],
)
def test_the_optimizer_gets_the_gradient_of_eq_6(run_host, tiny_models, dataset, tmp_path, script, options):
    arguments = lora_args if script == LORA else finetune_args
    options = {"max_train_epochs": 1, **options}
    run = run_host(script, "sga", arguments(tiny_models, dataset, tmp_path, **options), record=True)
    accumulated = options.get("gradient_accumulation_steps", 1)
    lambdas = {"macro": 2.0, "micro": 0.5} if "sga_loss_weight" in options else {}
    seen = Counter()
    for events in steps(run):
        expected = None
        pairs = list(zip(of(events, "batch"), of(events, "backward"), strict=True))
        tuples = [pairs] if accumulated == 1 else one_tuple_a_group(pairs)
        assert len(tuples) <= accumulated
        for members in tuples:
            levels = {level for _, level in slices([batch for batch, _ in members])}
            seen[len(levels)] += 1
            for level in levels:
                mine = [(batch, back) for batch, back in members if slices([batch])[0][1] == level]
                count = sum(len(batch["captions"]) for batch, _ in mine)
                for batch, back in mine:
                    factor = lambdas.get(level, 1.0) / (1 if options.get("sga_tuple_reduction") else len(levels))
                    share = factor * len(batch["captions"]) / count / accumulated
                    terms = [None if grad is None else share * grad.double() for grad in back["grads"]]
                    expected = terms if expected is None else [add(a, b) for a, b in zip(expected, terms, strict=True)]
        for ours, handed in zip(expected, events[-1]["grads"], strict=True):
            torch.testing.assert_close(handed.double(), ours, rtol=1e-5, atol=1e-8)
    assert {1, 2, 3} <= set(seen), f"the data must cover K of 1, 2 and 3, but had {seen}"


def add(a: torch.Tensor | None, b: torch.Tensor | None) -> torch.Tensor | None:
    return b if a is None else a if b is None else a + b


def one_tuple_a_group(pairs: list[tuple[dict, dict]]) -> list[list[tuple[dict, dict]]]:
    """Sort sub-batches by the one group that each tuple step holds under sga_groups_per_step=1."""
    tuples: dict[str, list[tuple[dict, dict]]] = {}
    for pair in pairs:
        tuples.setdefault(slices([pair[0]])[0][0], []).append(pair)
    return list(tuples.values())


@pytest.mark.parametrize("sampling", ["sigmoid", "shift", "flux_shift", "uniform", "sigma"])
def test_noise_levels_move_by_delta_and_only_in_training(run_host, tiny_models, tmp_path, sampling):
    dataset = write_dataset(tmp_path / "data", [LEVELS] * 4)
    options = {
        "timestep_sampling": sampling,
        "validation_split": 0.25,
        "max_train_steps": 2,
        "weighting_scheme": "none",
    }
    runs = {}
    for modulation in ("true", "false"):
        arguments = lora_args(tiny_models, dataset, tmp_path / modulation, sga_modulation=modulation, **options)
        runs[modulation] = run_host(LORA, "sga", arguments, record=True).events[0]
    compared = Counter()
    batch = {}
    for moved, base in zip(runs["true"], runs["false"], strict=True):
        assert moved["kind"] == base["kind"]
        if moved["kind"] == "batch":
            assert moved["captions"] == base["captions"]
            batch = moved
        if moved["kind"] == "timesteps" and moved["loader"] == 1:
            assert torch.equal(moved["timesteps"], base["timesteps"])
            compared["validation"] += 1
        elif moved["kind"] == "timesteps":
            level = slices([batch])[0][1]
            difference = torch.logit(moved["sigmas"].double()) - torch.logit(base["sigmas"].double())
            torch.testing.assert_close(difference, torch.full_like(difference, DELTA[level]), rtol=0, atol=2e-5)
            torch.testing.assert_close(moved["timesteps"], moved["sigmas"] * 1000)
            compared[level] += 1
    assert set(compared) == {*LEVELS, "validation"}


def test_sample_images_are_those_of_stock(run_host, tiny_models, dataset, tmp_path):
    """Before training and after a tuple step; at such a learning rate both runs draw the same."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a photo --w 64 --h 64 --s 2 --d 1\n")
    images = {}
    for door in ("stock", "sga"):
        options = {"sample_prompts": prompts, "sample_at_first": True, "sample_every_n_steps": 1}
        options |= {"max_train_steps": 2, "learning_rate": 1e-30}
        run_host(LORA, door, lora_args(tiny_models, dataset, tmp_path / door, **options))
        images[door] = sorted(path.read_bytes() for path in (tmp_path / door / "sample").glob("*.png"))
    assert len(images["stock"]) >= 3 and images["stock"] == images["sga"]


@pytest.mark.parametrize(("script", "seed"), [(LORA, 7), (LORA, None), (FULL, None)])
def test_two_processes_share_an_epoch_and_end_with_equal_weights(
    run_host, tiny_models, dataset, tmp_path, script, seed
):
    arguments = lora_args if script == LORA else finetune_args
    options = arguments(tiny_models, dataset, tmp_path, max_train_epochs=2, seed=seed)
    run = run_host(script, "sga", options, record=True, nproc=2, timeout=150)
    first, second = steps(run, 0), steps(run, 1)
    assert len(first) == len(second) == 6, "six tuple steps an epoch, an even number, in two epochs on two ranks"
    for mine, theirs in zip(first, second, strict=True):
        stems = [{stem for stem, _ in slices(of(step, "batch"))} for step in (mine, theirs)]
        assert not stems[0] & stems[1]
    for epoch in (slice(0, 3), slice(3, 6)):
        seen = Counter(slices([batch for step in first[epoch] + second[epoch] for batch in of(step, "batch")]))
        assert seen == Counter(slices_on_disk(dataset)), "every slice once an epoch, on one of the two ranks"
    assert run.output.count("SGA tuple plan") == 1
    ends = [events[-1] for events in run.events]
    assert [end["kind"] for end in ends] == ["end", "end"]
    assert all(map(torch.equal, ends[0]["weights"], ends[1]["weights"]))


def test_dora_trains_and_its_file_says_how_it_was_made(run_host, tiny_models, dataset, tmp_path):
    options = {"max_train_epochs": 1, "sga_timestep_shift": "macro:1,micro:-1", "no_metadata": True}
    run = run_host(LORA, "sga", dora_args(tiny_models, dataset, tmp_path, **options), record=True)
    with safe_open(tmp_path / "tiny.safetensors", "pt") as file:
        metadata, keys = file.metadata(), list(file.keys())
    assert any("dora_scale" in key for key in keys)
    assert metadata["ss_sga"] == metadata["ss_sga_tuples"] == metadata["ss_sga_modulation"] == "true"
    assert metadata["ss_sga_timestep_shift"] == "macro:1,micro:-1"
    assert metadata["ss_sga_groups_by_k"] == "3:3,2:3,1:2"
    assert all(math.isfinite(event["loss"]) for event in run.of("backward"))


def test_full_fine_tune_saves_metadata(run_host, tiny_models, dataset, tmp_path):
    run_host(FULL, "sga", finetune_args(tiny_models, dataset, tmp_path, max_train_steps=2))
    with safe_open(tmp_path / "tiny.safetensors", "pt") as file:
        assert file.metadata()["ss_sga_tuple_reduction"] == "mean"


def test_toml_keys_count_and_the_command_line_wins(run_host, tiny_models, dataset, tmp_path):
    import toml

    config = {"train": {key: as_toml(value) for key, value in lora_args(tiny_models, dataset, tmp_path).items()}}
    config["sga"] = {"sga_modulation": False, "sga_groups_per_step": 1, "sga_timestep_shift": "macro:9"}
    path = tmp_path / "run.toml"
    path.write_text(toml.dumps(config))
    run = run_host(LORA, "sga", ["--config_file", str(path), "--sga_modulation", "--sga_timestep_shift=macro:2"])
    with safe_open(tmp_path / "tiny.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_sga_modulation"] == "true"
    assert metadata["ss_sga_timestep_shift"] == "macro:2"
    assert metadata["ss_sga_groups_per_step"] == "1"
    assert "8 tuple steps an epoch" in run.output


def as_toml(value):
    return str(value) if isinstance(value, Path) else value


def test_full_fine_tune_door_hands_an_adapter_to_the_network_trainer(run_host, tiny_models, dataset, tmp_path):
    run = run_host(FULL, "sga", lora_args(tiny_models, dataset, tmp_path, max_train_steps=1))
    assert "runs flux_train_network.py instead of flux_train.py" in run.output
    assert any("lora_up" in key for key in load_file(tmp_path / "tiny.safetensors"))


def test_without_tuples_batches_are_those_of_stock(run_host, tiny_models, dataset, tmp_path):
    stock = run_host(LORA, "stock", lora_args(tiny_models, dataset, tmp_path / "a", max_train_epochs=2), record=True)
    options = {"sga_tuples": "false", "max_train_epochs": 2}
    ours = run_host(LORA, "sga", lora_args(tiny_models, dataset, tmp_path / "b", **options), record=True)
    assert [b["captions"] for b in ours.of("batch")] == [b["captions"] for b in stock.of("batch")]
    assert not all(map(torch.equal, *([e["sigmas"] for e in run.of("timesteps")] for run in (ours, stock))))


def test_the_plan_is_printed_and_warns(run_host, tiny_models, tmp_path):
    dataset = write_dataset(tmp_path / "data", [("macro", "micro")] * 2 + [("macro",)])
    dataset.write_text(dataset.read_text().replace('granularity = "macro"', 'granularty = "macro"'))
    output = run_host(LORA, "sga", lora_args(tiny_models, dataset, tmp_path, max_train_steps=1)).output
    plan = output[output.index("SGA tuple plan") :]
    assert "groups    3: 2 with K=2, 1 with K=1" in plan
    assert 'unknown attribute "granularty": did you mean "granularity"?' in plan
    assert "no slice is labelled meso" in plan
    assert "1 of 3 groups have one granularity only (K=1)" in plan


def test_a_plain_dataset_still_trains_and_is_told_why_nothing_changes(run_host, tiny_models, tmp_path):
    dataset = write_plain_dataset(tmp_path / "data")
    run = run_host(LORA, "sga", lora_args(tiny_models, dataset, tmp_path, max_train_epochs=1), record=True)
    assert "no image has a granularity" in run.output
    stock = run_host(LORA, "stock", lora_args(tiny_models, dataset, tmp_path / "b", max_train_epochs=1), record=True)
    assert len(run.of("step")) == len(stock.of("step")) and len(slices(run.of("batch"))) == 6


def test_several_datasets_repeats_and_regularisation_images(run_host, tiny_models, tmp_path):
    first = write_dataset(tmp_path / "a", [LEVELS] * 3, batch_size=2)
    second = write_dataset(tmp_path / "b", [("macro", "micro")] * 2, batch_size=3).read_text()
    regular = write_plain_dataset(tmp_path / "reg", count=4).parent / "1_photos"
    second = second.replace("num_repeats = 1", "num_repeats = 2")
    subset = f'[[datasets.subsets]]\nimage_dir = "{regular}"\nis_reg = true\nclass_tokens = "photo"\n'
    first.write_text(f"{first.read_text()}\n{subset}\n{second}")
    run = run_host(LORA, "sga", lora_args(tiny_models, first, tmp_path, max_train_epochs=1), record=True)
    assert "3 with K=3, 4 with K=2" in run.output
    expected = Counter(map(" ".join, slices_on_disk(first)))
    expected.update({" ".join(item): 2 for item in slices_on_disk(tmp_path / "b" / "dataset.toml")})
    # The host repeats regularisation images until there are as many as training images of their dataset.
    expected["photo"] = 9
    assert Counter(caption for batch in run.of("batch") for caption in batch["captions"]) == expected
    assert {len(batch["captions"]) for batch in run.of("batch")} <= {1, 2, 3}


def test_caches_workers_checkpointing_validation_and_flips_compose(run_host, tiny_models, tmp_path):
    dataset = write_dataset(tmp_path / "data", [LEVELS] * 4)
    names = [
        "cache_latents",
        "cache_latents_to_disk",
        "cache_text_encoder_outputs",
        "gradient_checkpointing",
        "flip_aug",
    ]
    workers = {"max_data_loader_n_workers": 2, "persistent_data_loader_workers": True}
    options = {**dict.fromkeys(names, True), **workers, "validation_split": 0.25, "max_train_epochs": 2}
    run = run_host(LORA, "sga", lora_args(tiny_models, dataset, tmp_path, **options), record=True)
    batches = {loader: [b for b in run.of("batch") if b["loader"] == loader] for loader in (0, 1)}
    trained, validated = (Counter(slices(batches[loader])) for loader in (0, 1))
    assert set(trained.values()) == {2}, "each training slice once in each of the two epochs"
    assert {stem for stem, _ in trained}.isdisjoint(stem for stem, _ in validated) and len(validated) == 3
    assert all(math.isfinite(event["loss"]) for event in run.of("backward"))


def held_out(folder: Path, groups: list) -> str:
    """A dataset's TOML for validation only. Stems are those of any dataset; captions begin with `held-`."""
    dataset = write_dataset(folder, groups)
    for caption in folder.glob("1_*/*.txt"):
        caption.write_text(f"held-{caption.read_text()}")
    return dataset.read_text().replace("[[datasets]]", "[[datasets]]\nvalidation_split = 1.0")


def test_each_dataset_is_split_by_its_own_share(run_host, tiny_models, tmp_path):
    """A quarter of one folder in two datasets, and all of another one with the same stems."""
    dataset = write_dataset(tmp_path / "data", [LEVELS] * 4, sizes=SQUARE)
    quarter = dataset.read_text().replace("[[datasets]]", "[[datasets]]\nvalidation_split = 0.25")
    smaller = quarter.replace("resolution = [128, 128]", "resolution = [64, 64]")
    dataset.write_text("\n".join([quarter, held_out(tmp_path / "held", [LEVELS] * 4), smaller]))
    run = run_host(LORA, "sga", lora_args(tiny_models, dataset, tmp_path, max_train_epochs=1), record=True)
    trained, validated = (
        Counter(slices([batch for batch in run.of("batch") if batch["loader"] == loader])) for loader in (0, 1)
    )
    assert set(trained.values()) == {2} and len(trained) == 9
    held = {item: count for item, count in validated.items() if item[0].startswith("held-")}
    own = {item: count for item, count in validated.items() if item not in held}
    assert len(held) == 12 and set(held.values()) == {1}
    assert len(own) == 3 and set(own.values()) == {2}, "one photo, the same at both resolutions"
    assert {stem for stem, _ in own}.isdisjoint(stem for stem, _ in trained)
    expected = "3 of 12 of dataset 1 (validation_split 0.25), 12 of 12 of dataset 2 (validation_split 1), 3 of 12 of"
    assert f"held out  18 images for validation: {expected} dataset 3" in run.output


def test_alpha_masks_and_random_captions_compose(run_host, tiny_models, tmp_path):
    """Masked losses still make Eq. 6, captions vary by epoch, and workers do not change what is drawn."""
    dataset = write_dataset(tmp_path / "data", [LEVELS] * 4, batch_size=1)
    for image in dataset.parent.glob("1_*/*.png"):
        picture = Image.open(image).convert("RGBA")
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
        picture.save(image)
    captions = "alpha_mask = true\nshuffle_caption = true\ncaption_separator = ' '\ncaption_tag_dropout_rate = 0.3\n"
    dataset.write_text(dataset.read_text().replace("num_repeats", captions + "num_repeats"))
    seen = {}
    for workers in (0, 2):
        options = {"max_train_epochs": 2, "max_data_loader_n_workers": workers, "masked_loss": True}
        args = lora_args(tiny_models, dataset, tmp_path / str(workers), **options)
        seen[workers] = run_host(LORA, "sga", args, record=True)
    captions = [[event["captions"] for event in of(run.events[0], "batch")] for run in seen.values()]
    assert captions[0] == captions[1]
    assert len({caption for (caption,) in captions[0]}) > 12, "tags are dropped anew in each epoch"
    assert_same_weights(tmp_path / "0" / "tiny.safetensors", tmp_path / "2" / "tiny.safetensors")
    for events in steps(seen[0]):
        shares = [grads for event in of(events, "backward") for grads in [event["grads"]]]
        for handed, *parts in zip(events[-1]["grads"], *shares, strict=True):
            if handed is not None:
                torch.testing.assert_close(handed, sum(parts) / 3, rtol=1e-4, atol=1e-8)


def test_smoke_on_every_version(run_host, tiny_models, dataset, tmp_path, other_checkout):
    options = {"max_train_epochs": 2, "max_data_loader_n_workers": 1}
    both = tmp_path / "both.toml"
    both.write_text(f"{dataset.read_text()}\n{held_out(tmp_path / 'held', [LEVELS])}")
    arguments = lora_args(tiny_models, both, tmp_path, **options)
    run = run_host(LORA, "sga", arguments, record=True, checkout=other_checkout)
    trained = [batch for batch in run.of("batch") if batch["loader"] == 0]
    assert Counter(slices(trained)) == Counter(dict.fromkeys(slices_on_disk(dataset), 2))
    assert "held out  3 images for validation: 3 of 3 of dataset 2 (validation_split 1)" in run.output
    with safe_open(tmp_path / "tiny.safetensors", "pt") as file:
        assert file.metadata()["ss_sga"] == "true"
    run = run_host(FULL, "sga", finetune_args(tiny_models, dataset, tmp_path / "full"), checkout=other_checkout)
    assert "SGA tuple plan" in run.output


def slices_on_disk(dataset: Path) -> list[tuple[str, str]]:
    return [(stem, level) for stem, levels in groups_on_disk(dataset).items() for level in levels]
