"""For test_probe.py, under torchrun: gradients and Gram matrices of two processes against the same by hand."""

import os
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.update(ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")

from accelerate.state import GradientState  # noqa: E402
from accelerate.utils import gather_object  # noqa: E402

from sga_kohya.equations.surgery import surgery_weights  # noqa: E402
from sga_kohya.tuples.accelerator import TupleAccelerator  # noqa: E402
from sga_kohya.tuples.probe import Probe  # noqa: E402
from sga_kohya.tuples.split import GradientSplit  # noqa: E402
from tests.test_probe import by_level  # noqa: E402
from tests.test_tuple_accelerator import FEATURES, Toy, first, train  # noqa: E402

torch.set_num_threads(1)


def run(every: int, surgery: str):
    GradientState._reset_state()
    torch.manual_seed(0)
    accelerator = TupleAccelerator(cpu=True)
    records: list[dict] = []
    probe = Probe(accelerator, every, records.append) if every else None
    accelerator.observer = GradientSplit(accelerator, probe, surgery) if probe or surgery else None
    model = torch.nn.Linear(FEATURES, 1)
    prepared = accelerator.prepare(
        model, torch.optim.SGD(model.parameters(), 0.0), DataLoader(Toy(groups=13, batch_size=1), collate_fn=first)
    )
    return train(accelerator, *prepared), records, model, accelerator


results = {}
plain, _, _, _ = run(0, "")
probed, records, model, accelerator = run(1, "")
for number, ((_, left), (keys, right)) in enumerate(zip(plain, probed, strict=True)):
    results[f"gradient {number}"] = torch.cat([g.flatten() for g in right]), torch.cat([g.flatten() for g in left])
    everyone = gather_object([{label: g.tolist() for label, g in by_level(model, keys).items()}])
    labels = sorted({label for g in everyone for label in g})
    zero = [0.0] * (FEATURES + 1)
    g = torch.tensor([[own.get(label, zero) for label in labels] for own in everyone]).mean(0)
    assert records[number]["labels"] == labels
    results[f"gram {number}"] = torch.tensor(records[number]["gram"]), g @ g.T
steps, _, model, accelerator = run(0, "pcgrad")
for number, (keys, gradient) in enumerate(steps):
    everyone = gather_object([{label: g.tolist() for label, g in by_level(model, keys).items()}])
    labels = sorted({label for g in everyone for label in g})
    g = torch.tensor([[own.get(label, zero) for label in labels] for own in everyone]).mean(0).double()
    flat = torch.cat([part.flatten() for part in gradient])
    same = accelerator.reduce(flat, "mean")
    results[f"ranks {number}"] = flat, same
    if len(labels) == 2:  # where the random order does not matter
        weights = surgery_weights("pcgrad", g @ g.T, torch.Generator())
        results[f"pcgrad {number}"] = flat, (weights @ g).float()
torch.save(results, Path(sys.argv[1]) / f"rank{accelerator.process_index}.pt")
