"""sga_kohya.hsd: the exported dataset.toml in the real sd-scripts. Skipped where no checkout is found."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sga_kohya.hsd import HsdConfig, LevelConfig, run

from .forked import python

CHECKOUT = Path(os.environ.get("SD_SCRIPTS_DIR") or "~/.cache/sga_kohya/sd-scripts").expanduser()

# As train_network.py reads --dataset_config; prints what it made of every image.
READ_DATASET = """
import json, pickle, sys
sys.path.insert(0, sys.argv[1])
import train_network
from library import config_util

args = train_network.setup_parser().parse_args(["--dataset_config", sys.argv[2]])
generator = config_util.BlueprintGenerator(config_util.ConfigSanitizer(True, True, False, True))

def group_of(file):
    blueprint = generator.generate(config_util.load_user_config(file), args)
    group, _ = config_util.generate_dataset_group_by_blueprint(blueprint.dataset_group)
    pickle.dumps([subset.custom_attributes for dataset in group.datasets for subset in dataset.subsets])
    return group

def read(file):
    return [
        {
            "path": info.absolute_path,
            "bucket": info.bucket_reso,
            "resized": info.resized_size,
            "caption": info.caption,
            "attributes": dataset.image_to_subset[key].custom_attributes,
            "flips": dataset.image_to_subset[key].flip_aug,
        }
        for dataset in group_of(file).datasets
        for key, info in dataset.image_data.items()
    ]

stock = [subset.custom_attributes for dataset in group_of(sys.argv[4]).datasets for subset in dataset.subsets]
print("FOUND", json.dumps([read(sys.argv[2]), read(sys.argv[3]), stock]))
"""


@pytest.mark.skipif(
    not (CHECKOUT / "library" / "config_util.py").is_file(),
    reason=f"no sd-scripts checkout at {CHECKOUT}: set SD_SCRIPTS_DIR to one",
)
def test_sd_scripts_keeps_every_exported_size(tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    random = np.random.default_rng(0)
    # Large, small, wide, tall, and one that already is a bucket.
    for width, height in ((1500, 1000), (300, 451), (1600, 500), (500, 1600), (512, 512), (333, 777)):
        coarse = random.integers(0, 256, (height // 50, width // 50, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height)).save(photos / f"p{width}x{height}.png")
    levels = (LevelConfig("macro", 768, tau_up=1.0), LevelConfig("meso", 768), LevelConfig("micro", 512))
    run(photos, out, HsdConfig(levels, export=("stock",)))
    rows = map(json.loads, (out / "sga_manifest.jsonl").read_text(encoding="utf-8").splitlines())
    exported = {str(out / row["file"]): row for row in rows if row["file"]}
    assert {row["granularity"] for row in exported.values()} == {"macro", "meso", "micro"}

    command = [
        *python(),
        "-c",
        READ_DATASET,
        str(CHECKOUT),
        str(out / "dataset.toml"),
        str(out / "dataset_raw.toml"),
        str(out / "dataset_stock.toml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("FOUND "))
    slices, raw, stock = json.loads(line.removeprefix("FOUND "))
    found = {entry["path"]: entry for entry in slices}

    assert found.keys() == exported.keys()
    for path, entry in found.items():
        with Image.open(path) as image:
            assert entry["bucket"] == entry["resized"] == list(image.size), path
        assert entry["attributes"] == {"granularity": exported[path]["granularity"]}
        assert entry["caption"]

    assert len(raw) == 6 and all(entry["flips"] and entry["caption"] for entry in raw)
    for entry in raw:
        with Image.open(entry["path"]) as image:
            assert entry["resized"] == list(image.size), "the copy has the size that the host would make"
            assert all(0 <= side - bucket < 64 for side, bucket in zip(image.size, entry["bucket"], strict=True))
    assert stock == [{"timestep_sampling": {"offset": offset}} for offset in (0.5, 0.0, -0.5)]
