"""TupleAccelerator on a toy model: the step is the tuple step, its gradient that of Eq. 6."""

import json
import random
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType
from torch.utils.data import DataLoader

from sga_kohya.equations.weights import sub_batch_weight
from sga_kohya.errors import SgaError
from sga_kohya.tuples.accelerator import TupleAccelerator
from sga_kohya.tuples.groups import form_groups
from sga_kohya.tuples.loader import EpochSampler, TupleDataset, TupleLoader
from sga_kohya.tuples.planner import Planner
from sga_kohya.tuples.step import Slice

FEATURES = 5


def weight(label, present, samples, samples_of_level):
    return sub_batch_weight(1.0, present, 3, samples, samples_of_level)


class Toy(TupleDataset):
    """Regression targets; K is 3, 2 and 1, and two buckets split each level."""

    def __init__(self, groups: int = 7, batch_size: int = 2):
        super().__init__()
        kinds = [("macro", "meso", "micro"), ("macro", "micro"), ("meso",)]
        self.epoch = 0
        self.planner = Planner(
            form_groups(
                (Slice(0, f"{n}/{label}", label, n % 2), str(n)) for n in range(groups) for label in kinds[n % 3]
            ),
            [batch_size],
            weight,
        )

    def __len__(self):
        return len(self.planner)

    def plan(self, epoch):
        return self.planner.epoch(epoch)

    def load(self, sub_batch):
        rows = [torch.randn(FEATURES + 1, generator=torch.Generator().manual_seed(hash_of(k))) for k in sub_batch.keys]
        return {"rows": torch.stack(rows), "keys": sub_batch.keys}

    def sampler(self, loader):
        return EpochSampler(len(self), lambda: self.epoch)


def hash_of(key: str) -> int:
    return sum(ord(c) * 31**i for i, c in enumerate(key)) % 2**31


def first(items):
    return items[0]


@pytest.fixture
def parts():
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()

    def make(accumulation=1, workers=0, **toy):
        accelerator = TupleAccelerator(gradient_accumulation_steps=accumulation, cpu=True)
        model = torch.nn.Linear(FEATURES, 1)
        dataset = Toy(**toy)
        loader = DataLoader(
            dataset, shuffle=True, collate_fn=first, num_workers=workers, persistent_workers=workers > 0
        )
        return accelerator, dataset, *accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.0), loader)

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def loss_of(model, batch):
    return (model(batch["rows"][:, :-1]).squeeze(-1) - batch["rows"][:, -1]).square().mean()


def train(accelerator, model, optimizer, loader, epochs=1, dataset=None):
    """The loop of any accelerate script. Returns (keys, gradient) of each optimizer step."""
    steps, keys = [], []
    for epoch in range(epochs):
        if dataset is not None:
            dataset.epoch = epoch
        for batch in loader:
            with accelerator.accumulate(model):
                keys.append(batch["keys"])
                accelerator.backward(loss_of(model, batch))
                if accelerator.sync_gradients:
                    steps.append((keys, [p.grad.clone() for p in model.parameters()]))
                    keys = []
                optimizer.step()
                optimizer.zero_grad()
    assert not keys
    return steps


def eq_6(model, dataset, keys):
    """1/K sum_k mean over the slices of level k, with no regard to buckets."""
    levels: dict[str, list[str]] = {}
    for key in (key for sub_batch in keys for key in sub_batch):
        levels.setdefault(key.split("/")[1], []).append(key)
    terms = []
    for members in levels.values():
        rows = torch.stack([torch.randn(6, generator=torch.Generator().manual_seed(hash_of(k))) for k in members])
        terms.append(loss_of(model, {"rows": rows}))
    return torch.autograd.grad(sum(terms) / len(levels), list(model.parameters()))


def test_the_gradient_of_each_step_is_that_of_eq_6(parts):
    accelerator, dataset, model, optimizer, loader = parts()
    steps = train(accelerator, model, optimizer, loader)
    assert len(steps) == len(loader) == len(dataset)
    assert {len({key.split("/")[1] for part in keys for key in part}) for keys, _ in steps} == {1, 2, 3}
    for keys, gradient in steps:
        torch.testing.assert_close(gradient, list(eq_6(model, dataset, keys)))


def test_accumulation_counts_tuple_steps_and_ends_with_the_epoch(parts):
    accelerator, dataset, model, optimizer, loader = parts(accumulation=3, groups=13)
    count = len(loader)
    assert count % 3
    steps = train(accelerator, model, optimizer, loader, epochs=2, dataset=dataset)
    assert len(steps) == 2 * -(-count // 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_epoch_has_its_own_plan_and_every_slice_once(parts, workers):
    accelerator, dataset, model, optimizer, loader = parts(workers=workers)
    steps = train(accelerator, model, optimizer, loader, epochs=3, dataset=dataset)
    size = len(loader)
    epochs = [[keys for keys, _ in steps[start : start + size]] for start in range(0, len(steps), size)]
    everything = sorted(item.key for group in dataset.planner.groups for item in group)
    for number, epoch in enumerate(epochs):
        assert sorted(key for step in epoch for part in step for key in part) == everything
        planned = [[part.keys for part in step] for step in dataset.planner.epoch(number)]
        assert epoch == planned


def test_the_current_sub_batch_is_known_only_inside_accumulate(parts):
    accelerator, _, model, _, loader = parts()
    for batch in loader:
        assert accelerator.current is None
        with accelerator.accumulate(model):
            assert accelerator.current.keys == batch["keys"]
        assert accelerator.current is None
    with pytest.raises(RuntimeError), accelerator.accumulate(model):
        raise RuntimeError
    assert accelerator.current is None


def test_after_step_comes_once_a_step(parts):
    accelerator, _, model, optimizer, loader = parts(accumulation=2)
    calls = []
    accelerator.after_step = lambda: calls.append(accelerator.sync_gradients)
    steps = train(accelerator, model, optimizer, loader)
    assert calls == [True] * len(steps)


def test_other_loaders_and_loops_are_accelerate_s(parts):
    accelerator, _, model, optimizer, _ = parts()
    other = accelerator.prepare(DataLoader([{"rows": torch.randn(2, 6), "keys": ()}] * 3, collate_fn=first))
    assert not isinstance(other, TupleLoader)
    assert len(train(accelerator, model, optimizer, other)) == 3


def test_skipping_batches_is_refused(parts):
    accelerator, *_, loader = parts()
    with pytest.raises(SgaError, match="--resume alone"):
        accelerator.skip_first_batches(loader, 1)


def test_a_state_resumes_at_the_next_tuple_step_with_the_same_random_numbers(parts, tmp_path):
    def run(epochs, start=0, stop=None):
        accelerator, dataset, model, optimizer, loader = parts(groups=13)
        if start:
            accelerator.load_state(tmp_path / str(start))
        drawn = []
        for epoch in range(epochs):
            dataset.epoch = epoch
            for batch in loader:
                with accelerator.accumulate(model):
                    accelerator.backward(loss_of(model, batch))
                    optimizer.step()
                    optimizer.zero_grad()
                drawn.append((batch["keys"], torch.rand(1).item(), random.random()))
                if accelerator.sync_gradients and not start:
                    accelerator.save_state(tmp_path / str(accelerator.cursor.step))
        AcceleratorState._reset_state(reset_partial_state=True)
        return drawn

    whole = run(2)
    cursors = {int(path.name): json.loads((path / "sga_cursor.json").read_text()) for path in tmp_path.iterdir()}
    per_epoch = len(cursors) // 2
    assert (cursors[per_epoch]["epoch"], cursors[per_epoch]["position"]) == (1, 0)
    for start in (1, per_epoch - 1, per_epoch, per_epoch + 2):
        rest = run(2, start)
        assert rest == whole[-len(rest) :]
        assert len(rest) < len(whole)


def test_a_folder_saved_over_is_replaced_as_a_whole(parts, tmp_path):
    accelerator, *_ = parts()
    target = tmp_path / "state"
    target.mkdir()
    (target / "stale").touch()
    accelerator.save_state(target)
    assert (target / "sga_cursor.json").is_file() and not (target / "stale").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_deepspeed_is_told_where_a_step_ends(parts, monkeypatch):
    """Its engine counts batches itself unless told; accelerate 1.6 tells it nothing."""
    accelerator, _, model, _, loader = parts()
    told = []

    engine = SimpleNamespace(set_gradient_accumulation_boundary=told.append)
    accelerator.deepspeed_engine_wrapped = SimpleNamespace(engine=engine)
    monkeypatch.setattr(TupleAccelerator, "distributed_type", DistributedType.DEEPSPEED)
    ends = []
    for _ in loader:
        with accelerator.accumulate(model):
            ends.append(accelerator.current.last)
    assert told == ends
    assert set(told) == {True, False}


def test_engines_that_cannot_follow_tuples_are_refused(parts, monkeypatch):
    accelerator, dataset, *_ = parts()
    monkeypatch.setattr(TupleAccelerator, "distributed_type", DistributedType.FSDP)
    with pytest.raises(SgaError, match="do not work under FSDP"):
        accelerator.prepare_data_loader(DataLoader(dataset))
    monkeypatch.setattr(TupleAccelerator, "distributed_type", DistributedType.DEEPSPEED)
    monkeypatch.setattr(TupleAccelerator, "num_processes", 2)
    monkeypatch.setattr(type(accelerator.state), "deepspeed_plugin", SimpleNamespace(zero_stage=2), raising=False)
    with pytest.raises(SgaError, match="ZeRO stage 2 with several processes"):
        accelerator.prepare_data_loader(DataLoader(dataset))
