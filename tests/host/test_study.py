"""A study on the real sd-scripts: arms are written, trained by their doors, sampled, measured and reported."""

import json
from pathlib import Path

import toml
from safetensors import safe_open

from sga_kohya.evaluate.plan.plan_file import read_plan
from sga_kohya.evaluate.study import Study

from ..evaluate_world import write_clip, write_vit
from ..forked import python
from .conftest import RUNNER
from .data import LEVELS, write_dataset
from .tiny_flux import dora_args

SCRIPT = "flux_train_network.py"


def test_a_study_of_two_arms_trains_samples_measures_and_reports(checkout, tiny_models, tmp_path):
    slices = write_dataset(tmp_path / "slices", [LEVELS] * 2)
    raw = toml.loads(slices.read_text())
    raw["datasets"][0]["subsets"] = [{"image_dir": str(tmp_path / "slices" / "1_macro"), "caption_extension": ".txt"}]
    (tmp_path / "slices" / "dataset_raw.toml").write_text(toml.dumps(raw))
    base = dora_args(tiny_models, slices, tmp_path, learning_rate=0.1, max_train_steps=None, max_train_epochs=1)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in base.items() if value}
    (tmp_path / "base.toml").write_text(toml.dumps(settings))
    write_clip(tmp_path / "clip")
    write_vit(tmp_path / "vit")
    study = {
        "seeds": [1],
        "bootstrap": 100,
        "train": {"base": "base.toml", "arms": ["raw", "full"]},
        "datasets": [
            {"name": "tiny", "slices": "slices", "references": "slices/1_macro", "prompts": ["a cat", "a dog"]}
        ],
        "metrics": {"clip": "clip", "dino": "vit"},
        "generate": {"width": 64, "height": 64, "steps": 1},
        "human": {"references": 1},
    }
    (tmp_path / "study.toml").write_text(toml.dumps(study))

    def run(door: str) -> list[str]:
        return [*python(), str(RUNNER), "--checkout", str(checkout), "--script", SCRIPT, "--door", door, "--"]

    work = Study(read_plan(tmp_path / "study.toml"), checkout, run("sga"), run("stock"))
    assert work.run() == 0
    said = {}
    for arm in ("raw", "full"):
        with safe_open(work.plan.model("tiny", arm), "pt") as file:
            said[arm] = file.metadata()
    assert said["full"]["ss_sga_tuples"] == "true" and "ss_sga_version" not in said["raw"], "the raw arm is stock"
    # Six slices come from two photos: three times the epochs of the photos, and as many pictures.
    assert [said[arm]["ss_num_epochs"] for arm in said] == ["3", "1"]
    report = (work.plan.out / "report.md").read_text()
    assert "Full SGA less each other arm" in report
    rows = [json.loads(line) for line in (work.plan.out / "study.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["variant"]) for row in rows] == [
        *[("train", "raw"), ("sample", "raw")],
        *[("train", "full"), ("sample", "full")],
    ]
