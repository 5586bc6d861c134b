"""sga_kohya.partition and the real sd-scripts: the labels of an existing dataset arrive in training."""

import json
import shlex
from collections import Counter
from pathlib import Path

import pytest

from sga_kohya.partition.__main__ import main

from .data import with_masks, write_plain_dataset
from .tiny_flux import lora_args


@pytest.mark.parametrize("masks", [False, True])
def test_labels_by_frequency_arrive_in_training(run_host, tiny_models, tmp_path, capsys, masks):
    dataset = write_plain_dataset(tmp_path / "data", count=6)
    dataset = with_masks(dataset) if masks else dataset
    out = tmp_path / "partition"
    assert main([str(dataset), str(out), "--by", "frequency", "--labels", "low,high"]) == 0
    # What the tool tells its user to add to a command.
    options = shlex.split(capsys.readouterr().out.partition("--dataset_config")[2])[1:]
    changes = {name.removeprefix("--"): value for name, value in zip(options[::2], options[1::2], strict=True)}
    assert changes["sga_timestep_shift"] == "low:0.5,high:-0.5"

    changes["masked_loss"] = masks
    changes["sga_timestep_shift"] = "low:9,high:-9"  # so far apart that noise levels tell the labels
    args = lora_args(tiny_models, out / "dataset.toml", tmp_path / "out", max_train_epochs=1, **changes)
    run = run_host("flux_train_network.py", "sga", args, record=True)
    rows = [json.loads(line) for line in (out / "sga_manifest.jsonl").read_text().splitlines()]
    label_of = {Path(row["file"]).stem: row["granularity"] for row in rows}
    assert Counter(label_of.values()) == {"low": 3, "high": 3}
    assert "groups    6: 6 with K=1" in run.output

    batches = [event for event in run.of("batch") if event["loader"] == 0]
    assert all(("masks" in batch) == masks for batch in batches)
    stems = [[caption.split()[0] for caption in batch["captions"]] for batch in batches]
    assert sorted(stem for batch in stems for stem in batch) == sorted(label_of)
    for batch, event in zip(stems, run.of("timesteps"), strict=True):
        is_low = event["sigmas"] > 0.5
        assert is_low.tolist() == [label_of[stem] == "low" for stem in batch]
