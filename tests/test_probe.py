"""The probe and surgery on a toy model: what they see, what they leave alone, and under two processes."""

import copy
import json
import subprocess
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType
from torch.utils.data import DataLoader

from sga_kohya.config import SgaConfig
from sga_kohya.equations.surgery import surgery_weights
from sga_kohya.errors import SgaError
from sga_kohya.tuples.accelerator import TupleAccelerator
from sga_kohya.tuples.probe import Probe, split_name
from sga_kohya.tuples.records import Log, figures, read_records
from sga_kohya.tuples.sketch import WIDTH, sketch
from sga_kohya.tuples.split import GradientSplit, attach

from .forked import python, ranks
from .test_tuple_accelerator import FEATURES, Toy, first, hash_of, loss_of, train

LEVELS = ("macro", "meso", "micro")


class Lora(torch.nn.Module):
    """A linear model of product form, with kohya's names."""

    def __init__(self, b_is_zero: bool = False):
        super().__init__()
        self.block = torch.nn.Module()
        self.block.lora_down = torch.nn.Linear(FEATURES, 3, bias=False)
        self.block.lora_up = torch.nn.Linear(3, 1, bias=False)
        if b_is_zero:
            torch.nn.init.zeros_(self.block.lora_up.weight)

    def forward(self, x):
        return self.block.lora_up(self.block.lora_down(x))


@pytest.fixture
def make():
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()

    def make(model=None, accumulation=1, every=0, surgery="", **toy):
        torch.manual_seed(0)
        accelerator = TupleAccelerator(gradient_accumulation_steps=accumulation, cpu=True)
        dataset = Toy(**toy)
        records = []
        probe = Probe(accelerator, every, records.append) if every else None
        if probe or surgery:
            accelerator.observer = GradientSplit(accelerator, probe, surgery)
        model = torch.nn.Linear(FEATURES, 1) if model is None else copy.deepcopy(model)
        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        loader = DataLoader(dataset, collate_fn=first)
        return (accelerator, *accelerator.prepare(model, optimizer, loader)), records

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def by_level(model, dataset_keys):
    """g_k of Eq. 6 by their definition, flat, for the levels of a step in order."""
    levels: dict[str, list[str]] = {}
    for key in (key for part in dataset_keys for key in part):
        levels.setdefault(key.split("/")[1], []).append(key)
    found = {}
    for label, members in sorted(levels.items()):
        rows = torch.stack([torch.randn(6, generator=torch.Generator().manual_seed(hash_of(k))) for k in members])
        gradients = torch.autograd.grad(loss_of(model, {"rows": rows}) / len(levels), list(model.parameters()))
        found[label] = torch.cat([gradient.flatten() for gradient in gradients])
    return found


@pytest.mark.parametrize("accumulation", [1, 3])
def test_gradients_of_probed_steps_are_bitwise_those_of_other_runs(make, accumulation):
    plain, _ = make(accumulation=accumulation, groups=13)
    expected = train(*plain)
    probed, records = make(accumulation=accumulation, groups=13, every=2)
    found = train(*probed)
    assert len(records) == len(expected) // 2
    for (keys, gradients), (same_keys, same) in zip(expected, found, strict=True):
        assert keys == same_keys
        assert all(torch.equal(left, right) for left, right in zip(gradients, same, strict=True))


def test_records_hold_the_gram_matrix_of_eq_6_s_terms(make):
    (accelerator, model, optimizer, loader), records = make(every=1)
    steps = train(accelerator, model, optimizer, loader)
    assert len(records) == len(steps) and {len(record["labels"]) for record in records} == {1, 2, 3}
    for record, (keys, gradient) in zip(records, steps, strict=True):
        g = by_level(model, keys)
        assert record["labels"] == list(g)
        stacked = torch.stack(list(g.values())).double()
        torch.testing.assert_close(torch.tensor(record["gram"]).double(), stacked @ stacked.T, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(stacked.sum(0).float(), torch.cat([part.flatten() for part in gradient]))
        for name, value in record.items():
            if name.startswith("cosine/"):
                left, right = (g[label] for label in name.removeprefix("cosine/").split("-"))
                assert value == pytest.approx(torch.cosine_similarity(left, right, dim=0).item(), abs=1e-4)


def test_other_steps_are_not_touched(make, monkeypatch):
    """No hook, and nothing moved or allocated: the observer is asked once or twice whether it wants a step, no more."""
    (accelerator, model, optimizer, loader), records = make(every=1000)
    monkeypatch.setattr(GradientSplit, "watch", lambda *_: pytest.fail("a step that is not probed was watched"))
    train(accelerator, model, optimizer, loader)
    assert records == [] and not accelerator.observer.probe._units
    for module in model.modules():
        assert not module._forward_hooks and not module._backward_hooks and not module._forward_pre_hooks
    assert all(not p._backward_hooks and not p._post_accumulate_grad_hooks for p in model.parameters())


def test_a_and_b_are_reported_apart(make):
    run, records = make(Lora(), every=1)
    train(*run)
    full = next(record for record in records if len(record["labels"]) == 3)
    assert set(full["parts"]) == {"A", "B"}
    assert full["parts"]["A"]["cosine/macro-micro"] != full["parts"]["B"]["cosine/macro-micro"]
    assert full["layers"]["macro-micro"]["lowest"][0] == "block"
    run, records = make(Lora(b_is_zero=True), every=1)
    train(*run)
    assert {part for record in records for part in record["parts"]} == {"B"}  # A has no gradient while B = 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lora_unet_double_blocks_0_img_attn.lora_down.weight", ("lora_unet_double_blocks_0_img_attn", "A")),
        ("lora_unet_x.lora_up.0.weight", ("lora_unet_x", "B")),
        ("lycoris_x.dora_scale", ("lycoris_x", "magnitude")),
        ("lycoris_x.lokr_w2_a", ("lycoris_x", "w2")),
        ("blocks.0.attn.lora_A.default.weight", ("blocks.0.attn", "A")),
        ("double_blocks.0.img_attn.qkv.weight", ("double_blocks.0.img_attn.qkv", "weight")),
        ("scale", ("scale", "weight")),
    ],
)
def test_names_of_adapters(name, expected):
    assert split_name(name) == expected


def test_adapters_of_lycoris_are_recognised():
    """Names come from the library itself, so that a new version that renames its parts is noticed."""
    import lycoris

    found = {}
    for algo, options in (("lora", {"dora_wd": True}), ("lokr", {"factor": 2}), ("loha", {})):
        net = torch.nn.Sequential(torch.nn.Linear(16, 16))
        lycoris.LycorisNetwork.apply_preset({"target_name": [".*"]})
        wrapped = lycoris.create_lycoris(net, 1.0, linear_dim=2, linear_alpha=1, algo=algo, **options)
        wrapped.apply_to()
        parts = {split_name(name)[1] for name, p in wrapped.named_parameters() if p.requires_grad}
        found[algo] = parts
    assert found["lora"] == {"A", "B", "magnitude"}
    assert found["lokr"] == {"w1", "w2"}
    assert found["loha"] == {"hada_w1", "hada_w2"}


def test_a_sketch_keeps_inner_products():
    """Unbiased, with the stated error, and linear."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 40_000, generator=generator)
    y = 0.5 * x + y
    exact = torch.cosine_similarity(x, y, dim=0)
    found = torch.stack(
        [torch.cosine_similarity(sketch(x, str(n), 1024), sketch(y, str(n), 1024), dim=0) for n in range(60)]
    )
    assert found.std().item() < 2 / 1024**0.5
    assert found.mean().item() == pytest.approx(exact.item(), abs=4 * 2 / 1024**0.5 / 60**0.5)
    torch.testing.assert_close(sketch(x + y, "a"), sketch(x, "a") + sketch(y, "a"), rtol=0, atol=1e-4)


def test_full_fine_tunes_are_sketched(make, monkeypatch):
    model = Lora()
    exact, wanted = make(model, every=1)
    train(*exact)
    monkeypatch.setattr("sga_kohya.tuples.probe.EXACT_UP_TO", 1)
    sketched, found = make(model, every=1)
    train(*sketched)
    assert found[0]["sketch_error"] == pytest.approx(WIDTH**-0.5, abs=1e-4) and wanted[0]["sketch_error"] == 0
    for left, right in zip(wanted, found, strict=True):
        for name in left:
            if name.startswith("cosine/"):
                assert right[name] == pytest.approx(left[name], abs=0.1)


def test_a_loss_scale_is_taken_out_and_an_overflow_leaves_no_record(make):
    run, records = make(every=1)
    train(*run)
    scaled, same = make(every=1)
    accelerator = scaled[0]

    class Scaler:
        def get_scale(self):
            return 1024.0

    accelerator.scaler = Scaler()
    accelerator.scaler.scale = lambda loss: loss * 1024.0
    train(*scaled)
    for left, right in zip(records, same, strict=True):
        torch.testing.assert_close(torch.tensor(left["gram"]), torch.tensor(right["gram"]))
    bad, none = make(every=1)
    bad[0].scaler = Scaler()
    bad[0].scaler.scale = lambda loss: loss * float("inf")
    train(*bad)
    assert none == []


def test_an_engine_that_hides_its_gradients_is_refused_and_missing_ones_are_told(make, tmp_path, monkeypatch, caplog):
    (accelerator, model, *_), _ = make(every=1)
    accelerator.observer.probe.add("macro", [None, None], 1.0)
    accelerator.observer.probe.finish(1)
    assert "no gradients" in caplog.text
    monkeypatch.setattr(TupleAccelerator, "distributed_type", DistributedType.DEEPSPEED)
    attach(accelerator, SgaConfig(), tmp_path / "log", print)
    with pytest.raises(SgaError, match="DEEPSPEED"):
        attach(accelerator, SgaConfig(gradient_surgery="pcgrad"), tmp_path / "log", print)


def test_the_window_is_compared_with_random_partitions(make):
    run, records = make(every=1, groups=30, batch_size=1)
    train(*run)
    window = records[-1]["window"]
    assert window["steps"] == 16 and 0 <= window["conflict_rate"] <= 1
    control = window["control"]["cosine/macro-micro"]
    assert control["low"] <= control["mean"] <= control["high"] and 0 < control["at_or_below"] <= 1
    assert set(window["control"]) >= {"magnitude_similarity/macro-micro", "condition_number", "diagonal_dominance"}
    one = next(record for record in records if len(record["labels"]) == 3)
    if one["window"]["steps"] == 1:
        assert "control" not in one["window"]  # a gradient for each label: other partitions are other names


@pytest.mark.parametrize("method", ["pcgrad", "cagrad"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_surgery_replaces_each_tuple_step_s_gradient(make, method, accumulation):
    plain, _ = make(accumulation=accumulation)
    tuples = train(*plain)
    (accelerator, model, optimizer, loader), _ = make(accumulation=accumulation, surgery=method)
    steps = train(accelerator, model, optimizer, loader)
    changed = 0
    for (keys, gradient), (same_keys, before) in zip(steps, tuples, strict=True):
        assert keys == same_keys
        if accumulation == 1 and len({key.split("/")[1] for part in keys for key in part}) == 2:
            g = torch.stack(list(by_level(model, keys).values())).double()
            # two gradients: PCGrad's random order does not matter
            weights = surgery_weights(method, g @ g.T, torch.Generator())
            found = torch.cat([part.flatten() for part in gradient]).double()
            torch.testing.assert_close(found, weights @ g, rtol=1e-4, atol=1e-5)
        changed += not torch.equal(gradient[0], before[0])
    assert changed


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_resumed_run_draws_the_same_order_for_pcgrad(make, accumulation, monkeypatch):
    """Also where the loader of a resumed run counts its positions from 0, as the reference trainer's does."""
    seeds = []

    def weights(method, gram, generator):
        seeds.append(generator.initial_seed())
        return torch.ones(len(gram))

    monkeypatch.setattr("sga_kohya.tuples.split.surgery_weights", weights)
    run, _ = make(accumulation=accumulation, surgery="pcgrad", groups=24)
    train(*run)
    whole, made = seeds.copy(), 2
    assert len(set(whole)) == len(whole) > 2 * accumulation * made
    seeds.clear()
    run, _ = make(accumulation=accumulation, surgery="pcgrad", groups=24)
    run[0].cursor.step = made
    train(*run)
    same = len(whole) - made * accumulation - 1  # an epoch may end inside an accumulation
    assert seeds[:same] == whole[made * accumulation :][:same]


def test_figures_for_trackers_are_numbers(make):
    run, records = make(Lora(), every=1, groups=30, batch_size=1)
    train(*run)
    shown = figures(records[-1] | {"step_cosine": None})
    assert all(isinstance(value, float) for value in shown.values())
    shown = figures(next(r for r in reversed(records) if len(r["labels"]) == 3))
    wanted = {"interference/cosine/macro-micro", "interference_A/cosine/macro-micro", "interference/step_cosine"}
    wanted |= {"interference_window/conflict_rate", "interference_control/cosine/macro-micro"}
    assert wanted <= shown.keys()


def test_the_file_only_grows_and_survives_kills_and_resumes(tmp_path):
    path = tmp_path / "run_interference.jsonl"
    log = Log(path, {"ss_sga_version": "1"})
    for step in (10, 20, 30):
        log.append({"step": step, "value": 1 / 3})
    before = path.read_bytes()
    with path.open("a") as file:
        file.write('{"step": 40, "va')  # killed here
    resumed = Log(path, {})
    resumed.append({"step": 30, "value": 2.0})
    assert path.read_bytes().startswith(before)
    assert [(r["step"], r["value"]) for r in read_records(path)] == [(10, 0.33333), (20, 0.33333), (30, 2.0)]
    assert json.loads(before.splitlines()[0])["from_step"] == 10


def test_two_processes_see_and_operate_on_the_gradients_of_both(tmp_path):
    """Ranks have steps of different K and different numbers of sub-batches; see two_ranks.py for what is compared."""
    words = "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no-python", *ranks()
    command = [*python(), *words, str(Path(__file__).with_name("probe_two_ranks.py")), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    for rank in (0, 1):
        results = torch.load(tmp_path / f"rank{rank}.pt")
        for name, (found, expected) in results.items():
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert any(name.startswith("pcgrad") for name in results) and any(name.startswith("gram") for name in results)
