"""A study with musubi-tuner: a tiny FLUX.2 is trained and drawn. test_versions asks what its scripts understand."""

import json
from pathlib import Path

import toml
from safetensors import safe_open

from sga_kohya.evaluate.plan.plan_file import read_plan
from sga_kohya.evaluate.study import Study
from sga_kohya.hosts.musubi.families import SCRIPTS
from sga_kohya.hosts.musubi.samplers import FAMILIES

from ..evaluate_world import write_clip, write_vit
from ..forked import python
from .conftest import COMMON
from .stacks import STACKS


def test_every_door_with_a_sampler_is_a_door():
    assert FAMILIES.keys() <= SCRIPTS.keys()


def test_a_study_caches_trains_draws_and_reports_on_a_tiny_flux_2(tuner, world_of, tmp_path):
    """One arm beside the model before any training, each by a process of its own."""
    world, slices = world_of(tuner, "flux_2"), tmp_path / "slices"
    slices.mkdir()
    text = (world / "flux_2" / "dataset_musubi.toml").read_text()
    (slices / "dataset_musubi.toml").write_text(text.replace(f"{world}/flux_2/cache/", f"{tmp_path}/cache/"))
    base = {**COMMON, **STACKS["flux_2"].arguments(world), "max_train_epochs": 1, "mixed_precision": "bf16"}
    base |= {"vae": world / "flux_2_ae.safetensors", "text_encoder": world}
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in base.items()}
    (tmp_path / "base.toml").write_text(toml.dumps(settings))
    write_clip(tmp_path / "clip")
    write_vit(tmp_path / "vit")
    photos = f"{world}/flux_2/1_macro"
    study = {
        "seeds": [1],
        "bootstrap": 100,
        "train": {"base": "base.toml", "arms": ["full"]},
        "datasets": [{"name": "tiny", "slices": "slices", "references": photos, "prompts": ["a cat", "two dogs"]}],
        "variants": [{"name": "untrained"}],
        "metrics": {"clip": "clip", "dino": "vit"},
        "generate": {"width": 64, "height": 64, "steps": 1},
        "human": {"references": 1},
    }
    (tmp_path / "study.toml").write_text(toml.dumps(study))
    runner = [*python(), str(Path(__file__).with_name("one.py")), str(tuner / "src"), "flux_2"]
    plan = read_plan(tmp_path / "study.toml")
    work = Study(plan, tuner / "src" / "musubi_tuner", [*runner, "door", plan.training.door], [*runner, "script"])
    assert work.run() == 0, work.failed
    with safe_open(plan.model("tiny", "full"), "pt") as file:
        assert file.metadata()["ss_sga_groups_by_k"] == "3:3,2:2,1:1"
    rows = [json.loads(line) for line in (plan.out / "study.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["cache", "train", "sample", "sample"]
    assert len(list((plan.out / "images").rglob("p*.png"))) == 4, "which of so small a model show no adapter"
