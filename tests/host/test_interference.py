"""The probe, surgery and the offline measurement on the real sd-scripts."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sga_kohya.equations.surgery import surgery_weights
from sga_kohya.tuples.records import read_records

from ..forked import python
from .conftest import start
from .data import LEVELS, write_dataset
from .test_sga import of, slices, steps
from .tiny_flux import dora_args, lora_args

SCRIPT = "flux_train_network.py"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", [LEVELS, LEVELS, ("macro", "micro")], sizes=((128, 128), (128, 64)))


def by_level(events: list[dict]) -> dict[str, torch.Tensor]:
    """The gradients of each granularity as the script's own losses make them, weighted by Eq. 6, flat."""
    found: dict[str, torch.Tensor] = {}
    pairs = list(zip(of(events, "batch"), of(events, "backward"), strict=True))
    counts: dict[str, int] = {}
    for batch, _ in pairs:
        for _, level in slices([batch]):
            counts[level] = counts.get(level, 0) + 1
    for batch, back in pairs:
        (level,) = {level for _, level in slices([batch])}
        flat = torch.cat([gradient.flatten() for gradient in back["grads"]])
        found[level] = found.get(level, 0) + flat * len(slices([batch])) / counts[level] / len(counts)
    return found


def test_probe_surgery_and_offline_measurement_of_a_dora(run_host, checkout, tiny_models, dataset, tmp_path):
    settings = {"sga_probe_every": 1, "sga_gradient_surgery": "pcgrad", "logging_dir": tmp_path / "logs"}
    arguments = dora_args(tiny_models, dataset, tmp_path / "out", max_train_epochs=2, sga_groups_per_step=1, **settings)
    run = run_host(SCRIPT, "sga", arguments, record=True)
    records = read_records(tmp_path / "out" / "tiny_interference.jsonl")
    assert [record["step"] for record in records] == list(range(1, len(steps(run)) + 1))
    operated = 0
    for record, events in zip(records, steps(run), strict=True):
        g = by_level(events)
        assert record["labels"] == sorted(g)
        stacked = torch.stack([g[label] for label in record["labels"]]).double()
        gram = stacked @ stacked.T
        torch.testing.assert_close(torch.tensor(record["gram"]).double(), gram, rtol=1e-3, atol=1e-9)
        # A has no gradient in the first step, because B is zero
        assert set(record["parts"]) == ({"A", "B", "magnitude"} if record["step"] > 1 else {"B", "magnitude"})
        if len(g) == 2:
            weights = surgery_weights("pcgrad", gram, torch.Generator())
            taken = torch.cat([part.flatten() for part in of(events, "step")[0]["grads"]]).double()
            torch.testing.assert_close(taken, weights @ stacked, rtol=1e-3, atol=1e-7)
            operated += 1
    assert operated
    weights = tmp_path / "out" / "tiny.safetensors"
    with safe_open(weights, "pt") as file:
        assert file.metadata()["ss_sga_gradient_surgery"] == "pcgrad"
        assert "ss_sga_probe_every" not in file.metadata()
    (events,) = (tmp_path / "logs").rglob("events.*")
    shown = EventAccumulator(str(events.parent)).Reload()
    cosines = shown.Scalars("interference/cosine/macro-micro")
    assert [event.value for event in cosines] == pytest.approx([r["cosine/macro-micro"] for r in records], rel=1e-3)
    assert {"interference_A/cosine/macro-micro", "interference_window/conflict_rate"} <= set(shown.Tags()["scalars"])

    config = tmp_path / "trained.toml"
    # flips must not disturb the posterior
    dataset.write_text(dataset.read_text().replace("num_repeats", "flip_aug = true\nnum_repeats"))
    config.write_text("\n".join(f"{key} = {json.dumps(value, default=str)}" for key, value in arguments.items()))
    before = weights.read_bytes()
    look = [*python(), str(Path(__file__).with_name("look.py")), "--checkout", str(checkout), "--script", SCRIPT]
    words = [str(config), "--weights", str(weights), "--points", "3", "--levels", "0.5,0.999"]
    result = start([*look, "--", *words], tmp_path, 180)
    assert "help each other" in result.output or "conflict" in result.output or "clear direction" in result.output
    assert weights.read_bytes() == before and not list((tmp_path / "out").glob("measure*"))
    content = json.loads((tmp_path / "out" / "tiny_interference" / "interference.json").read_text())
    low, high = content["levels"]
    assert low["sigma"] == 0.5 and low["effective"] == 1 and low["sigma"] < low["one_hot"] < low["half"]
    assert high["effective"] > 2
    assert low["gradients"]["count"] == high["gradients"]["count"] == 3
    assert "macro-micro" in high["kernel"]["cosine"]
    page = (tmp_path / "out" / "tiny_interference" / "interference.html").read_text()
    assert "one-hot" in page and "proxy" in page and "http" not in page


def test_a_probed_baseline_is_stock_bit_for_bit(run_host, tiny_models, dataset, tmp_path):
    """LyCORIS LoKr in the host's own batches: the probe only looks."""
    network = {"network_module": "lycoris.kohya", "network_args": ["algo=lokr", "factor=4"], "max_train_steps": 4}
    run_host(SCRIPT, "stock", lora_args(tiny_models, dataset, tmp_path / "stock", **network))
    off = {"sga_tuples": "false", "sga_modulation": "false", "sga_probe_every": 2}
    run_host(SCRIPT, "sga", lora_args(tiny_models, dataset, tmp_path / "probed", **network, **off))
    stock, probed = (load_file(tmp_path / name / "tiny.safetensors") for name in ("stock", "probed"))
    assert stock and all(torch.equal(stock[name], probed[name]) for name in stock)
    records = read_records(tmp_path / "probed" / "tiny_interference.jsonl")
    assert [record["step"] for record in records] == [2, 4] and "step_cosine" in records[1]
    assert records[1]["window"]["steps"] == 2
