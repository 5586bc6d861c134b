"""The offline measurement without a host: single points against the definitions, intervals, words, page and store."""

import contextlib
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import save_file

from sga_kohya.equations import gram as grams
from sga_kohya.equations.interference import flow_path
from sga_kohya.errors import SgaError
from sga_kohya.hosts.sd_scripts.measure import Latents
from sga_kohya.interference import charts, report, store, summary
from sga_kohya.interference.points import Measurement, exact_space, output_space, pool, pooled_space, pull_back
from sga_kohya.interference.summary import Level, Matrix
from sga_kohya.kit.intervals import Interval
from sga_kohya.training.look import Enough, Seen
from sga_kohya.tuples.accelerator import TupleAccelerator
from sga_kohya.tuples.step import SubBatch

from .bench.coverage import Steps, coverage
from .pages import HOSTILE, assert_stays_text, taken_apart

LABELS = ["macro", "meso", "micro"]


@pytest.fixture
def data():
    torch.manual_seed(3)
    wide = [torch.randn(4, 8, 16) for _ in range(6)]
    square = [torch.randn(4, 16, 16) for _ in range(3)]
    labels = [*LABELS, *LABELS, None, "macro", "macro"]
    return Latents([*wide, *square], labels, [1, 2, 1, 1, 1, 3, 1, 1, 1])


def at(data, i, sigma):
    z, eps = data.latents[i][None], torch.randn(1, *data.latents[i].shape)
    return z, eps, (1 - sigma) * z + sigma * eps


def posterior_by_hand(data, x, members, sigma):
    """alpha and the mean latent of each label, straight from Eq. 10-14, float64."""
    z = torch.stack([data.latents[i].flatten() for i in members]).double()
    repeats = torch.tensor([data.repeats[i] for i in members]).double()
    likelihood = -(x.flatten().double() - (1 - sigma) * z).square().sum(1) / (2 * sigma**2) + repeats.log()
    p = (likelihood - likelihood.max()).exp()
    names = sorted({data.labels[i] or "unlabelled" for i in members})
    chosen = [torch.tensor([(data.labels[i] or "unlabelled") == name for i in members]) for name in names]
    alpha = torch.stack([p[c].sum() for c in chosen]) / p.sum()
    return names, alpha, torch.stack([(p[c, None] * z[c]).sum(0) / p[c].sum() for c in chosen])


@pytest.mark.parametrize("sigma", [0.9, 0.97])
def test_a_point_has_the_omega_of_its_shape_s_latents(data, sigma):
    z, eps, x = at(data, 0, sigma)
    prediction = torch.randn_like(z)
    space = exact_space(data, z.shape[1:])
    assert space.names == LABELS and len(space.latents) == 6
    path = flow_path(torch.tensor([sigma]))
    found = output_space(space, *(part.flatten(1) for part in (z, eps, x)), path, prediction.flatten(1))
    names, alpha, means = posterior_by_hand(data, x, range(6), sigma)
    assert found["labels"] == names
    torch.testing.assert_close(torch.tensor(found["alpha"]).double(), alpha, rtol=1e-3, atol=1e-5)
    delta = prediction.flatten().double() - (x.flatten().double() - means) / sigma
    omega = delta @ delta.T / delta.shape[1]
    torch.testing.assert_close(torch.tensor(found["omega"]).double(), omega, rtol=1e-3, atol=1e-5)
    assert found["loss"] == pytest.approx(float(alpha @ omega @ alpha), rel=1e-3)
    distances = [float((data.latents[0] - data.latents[i]).norm()) for i in range(1, 6)]
    assert found["nearest"] == pytest.approx(min(distances)) and found["latents"] == 6


def test_latents_of_another_shape_are_compared_only_as_a_proxy(data):
    assert exact_space(data, torch.Size([4, 16, 16])).names == ["macro", "unlabelled"]
    side, sigma = 4, 0.8
    z, eps, x = at(data, 6, sigma)
    space = pooled_space(data, side, z.shape[1:])
    assert len(space.latents) == 9 and space.cells == 16
    path = flow_path(torch.tensor([sigma]))
    pooled = [pool(part, side) for part in (z, eps, x)]
    found = output_space(space, *pooled, path, pool(torch.zeros_like(z), side))
    # Noise that is averaged over 16 values is a quarter as large, so distances count four times.
    near = min(float((space.latents[6] - row).norm()) for i, row in enumerate(space.latents) if i != 6)
    assert found["nearest"] == pytest.approx(4 * near, rel=1e-5)
    # the density of an average of 16 values of noise has a standard deviation of sigma / 4
    rows = torch.stack([pool(latent[None], side)[0] for latent in data.latents]).double()
    likelihood = -(pooled[2].double() - (1 - sigma) * rows).square().sum(1) / (2 * (sigma / 4) ** 2)
    p = (likelihood + torch.tensor(data.repeats).log()).softmax(0)
    micro = p[[i for i, label in enumerate(data.labels) if label == "micro"]].sum()
    assert found["alpha"][found["labels"].index("micro")] == pytest.approx(float(micro), abs=1e-4)


def test_pulling_back_is_a_vector_jacobian_product_and_keeps_the_graph():
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    accelerator = TupleAccelerator(cpu=True)
    model = torch.nn.Linear(3, 2)
    model, _ = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1))
    x = torch.randn(4, 3)
    prediction = model(x)
    for _ in range(2):
        output = torch.randn(4, 2)
        weight, bias = pull_back(accelerator, prediction, output)
        torch.testing.assert_close(weight, output.T @ x)
        torch.testing.assert_close(bias, output.sum(0))
    assert model.weight.grad is None
    # float16 in between: 1e-8 vanishes without a loss scale, and 1e5 overflows with all of it
    accelerator.scaler = SimpleNamespace(get_scale=lambda: 65536.0)
    for size in (1e-5, 100.0):
        small = (1e-3 * model(x).half()).float()
        _, bias = pull_back(accelerator, small, torch.full((4, 2), size))
        torch.testing.assert_close(bias, torch.full((2,), 4 * 1e-3 * size), rtol=1e-2, atol=0)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_steps_gradients_are_those_of_its_weighted_squared_errors(monkeypatch):
    """By autograd from the loss itself: Eq. 6's weight times the mean squared distance of prediction and eps - z."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    accelerator = TupleAccelerator(cpu=True)
    torch.manual_seed(1)
    model = torch.nn.Conv2d(4, 4, 1)
    model, _ = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1))
    shapes = {"macro": (2, 4, 4, 8), "micro": (1, 4, 4, 4)}
    weights = {"macro": 0.75, "micro": 0.25}
    parts = {label: (torch.randn(shape), torch.randn(shape)) for label, shape in shapes.items()}
    every = [z for latents, _ in parts.values() for z in latents]
    data = Latents(every, ["macro", "macro", "micro"], [1, 1, 1])
    monkeypatch.setattr("sga_kohya.interference.points.cached_latents", lambda *_: data)
    measured, sigma, expected = Measurement([0.6], 1, lambda _: None), 0.6, []
    for label, (z, eps) in parts.items():
        x = (1 - sigma) * z + sigma * eps
        loss = weights[label] * (model(x) - (eps - z)).square().mean()
        expected.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
        path = flow_path(torch.full((len(z),), sigma))
        batch = SubBatch(0, ("k",) * len(z), (label,) * len(z), weights[label], last=label == "micro")
        seen = Seen(batch, latents=z, noise=eps, x=x, path=path, prediction=model(x))
        with pytest.raises(Enough) if batch.last else contextlib.nullcontext():
            measured.observe(SimpleNamespace(accelerator=accelerator), seen)
    (step,) = measured.steps[0]
    expected = torch.stack(expected)
    assert step["labels"] == ["macro", "micro"]
    torch.testing.assert_close(torch.tensor(step["gram"]).float(), expected @ expected.T, rtol=1e-4, atol=1e-6)
    AcceleratorState._reset_state(reset_partial_state=True)


def planted(cosine, count=40):
    """Gram matrices of two unit gradients with a cosine, and some scatter."""
    torch.manual_seed(0)
    draws = []
    for _ in range(count):
        c = cosine + 0.2 * torch.randn(()).item()
        draws.append((["macro", "micro"], [[1.0, c], [c, 1.0]]))
    return draws


def test_cosines_and_conflict_rates_have_intervals():
    found = summary.matrix([*planted(-0.2), (["macro"], [[4.0]])])
    cosine, conflict = found.cosine["macro-micro"], found.conflict["macro-micro"]
    assert found.count == 41 and found.mean[0][0] == pytest.approx((40 + 4) / 41)
    assert cosine.low < -0.2 < cosine.high < 0 and conflict.low < conflict.value < conflict.high
    assert 0.7 < conflict.value < 0.95
    nothing = summary.matrix([(["macro"], [[1.0]])])
    assert nothing.cosine == {} and summary.matrix([]).mean == []


def level(sigma, cosine, control=None):
    gradients = summary.matrix(planted(cosine))
    chance = {} if control is None else {"cosine/macro-micro": control}
    return Level(
        sigma, gradients, Matrix([], [], 0), Matrix([], [], 0), gradients, 1.0, 9.0, 0.97, 0.95, 0.1, chance, sigma
    )


def test_the_conflict_rate_is_the_share_of_steps_below_zero():
    found = summary.matrix([(["a", "b"], [[1.0, c], [c, 1.0]]) for c in (-0.3, -0.1, -0.2, 0.4, 0.0)])
    rate = found.conflict["a-b"]
    assert rate.value == 0.6 and (rate.low, rate.high) == pytest.approx((0.2307, 0.8824), abs=1e-4)


def test_gradients_that_are_orthogonal_have_no_direction_in_any_of_many_looks():
    """Six levels a measurement, from a fixed seed: uncorrected 95 % intervals would find one in a third of them."""
    for steps in (Steps(8), Steps(16)):
        assert sum(steps.claims(np.random.default_rng(seed)) for seed in range(60)) <= 6
    naive = [Steps(16).found(np.random.default_rng(seed))[0].excludes(0) for seed in range(360)]
    assert np.mean(np.reshape(naive, (60, 6)).any(axis=1)) > 0.2
    strong = Steps(16, 0.4)
    assert all(strong.claims(np.random.default_rng(seed)) for seed in range(10))


def test_intervals_of_cosines_and_rates_cover():
    """From a fixed seed; plain percentiles cover .87 to .90, and .60 of the rates of 8 steps."""
    for steps in (Steps(8), Steps(16, 0.3)):
        assert coverage(300, steps.found) >= 0.91
    assert coverage(300, Steps(8).conflicts) >= 0.91


def test_a_large_cosine_of_few_steps_is_no_direction():
    """Its interval holds 0, or chance gives as much: what the verdict says follows them and not the figure."""
    wild = [(["a", "b"], [[1.0, c], [c, 1.0]]) for c in (0.9, -0.8, 0.9, 0.8, -0.7, 0.9, -0.6, 0.9)]
    found = level(0.5, 0.0)
    found.gradients = summary.matrix(wild)
    cosine = found.gradients.cosine["a-b"]
    assert cosine.value > 0.25 and cosine.low < 0 < cosine.high
    assert "show no clear direction" in summary.verdict([found])[0]
    # The same draws with a chance that is small: the interval alone still forbids it.
    found.gradients.chance["a-b"] = 0.0001
    assert "show no clear direction" in summary.verdict([found])[0]
    clear = level(0.5, 0.5)
    clear.gradients.chance["macro-micro"] = 0.2
    assert "show no clear direction" in summary.verdict([clear])[0]


def test_random_partitions_are_beaten_only_beyond_the_number_of_looks(monkeypatch):
    """One level in 20 is below its random partitions by chance; of many, one says nothing."""
    one_way = torch.randn(400)
    opposed = [[("a", one_way + torch.randn(400)), ("b", torch.randn(400) - one_way)] for _ in range(16)]
    assert summary._control(opposed, 0, 18)["cosine/a-b"]["below"] == 1
    chance = {"mean": 0.0, "low": -0.1, "high": 0.1, "at_or_below": 0.02}
    rare = grams.Pooled(["a", "b"], torch.eye(2), {"cosine/a-b": -0.1}, {"cosine/a-b": chance})
    monkeypatch.setattr(grams, "pool", lambda *_: rare)
    assert [summary._control(opposed, 0, looks)["cosine/a-b"]["below"] for looks in (1, 2, 3, 18)] == [1, 1, 0, 0]


def test_the_verdict_says_what_the_figures_say():
    specific = {"real": -0.5, "mean": 0.1, "low": -0.1, "high": 0.3, "at_or_below": 0.01, "below": 1.0}
    (text,) = summary.verdict([level(0.3, 0.5), level(0.7, -0.5, specific), level(0.9, 0.0)])
    assert "macro and micro conflict at noise level 0.7 and help each other at 0.3" in text
    assert "at 1 of 3 levels it is not clear" in text
    assert "agree less than random partitions of the same slices at 0.7" in text
    (text,) = summary.verdict([level(0.3, 0.5, specific | {"at_or_below": 0.6, "below": 0.0})])
    assert "help each other at noise level 0.3. Random partitions of the same slices agree no better" in text
    assert "siblings" in summary.verdict([])[0]


def test_the_verdict_claims_no_more_than_it_knows():
    few = level(0.5, -0.5)
    few.gradients = summary.matrix(planted(-0.5, count=3))
    (text,) = summary.verdict([few])
    assert "Only 3 steps a level: take 8 or more --points" in text and "no clear direction" in text
    tiny = level(0.5, 0.0)
    tiny.gradients = summary.matrix([(["a", "b"], [[1.0, 0.01 * (-1) ** n + 0.005], [0, 1.0]]) for n in range(40)])
    (text,) = summary.verdict([tiny])
    assert "as good as orthogonal" in text


def test_the_page_shows_both_facts_and_escapes_names():
    facts = {"weights": "<b>.safetensors", "dataset": "a & b"}
    page = report.page([level(0.3, 0.5)], ["x < y"], facts)
    assert "&lt;b&gt;.safetensors" in page and "a &amp; b" in page and "x &lt; y" in page
    assert "one-hot" in page and "different shape" in page and "below s*" in page
    assert "prefers-color-scheme" in page and "$" not in page


def test_labels_of_any_kind_stay_text():
    pages = []
    for name in (HOSTILE, "harmless"):
        found = level(0.3, 0.5)
        found.gradients = summary.matrix([([name, "z"], [[1.0, 0.5], [0.5, 1.0]])] * 8)
        pages.append(report.page([found], [name], {"weights": name, "dataset": name}))
    assert_stays_text(*pages)
    assert taken_apart(pages[0]).words.count(HOSTILE) == 3, "the verdict's line, and labels of both axes"


def test_file_names_of_any_bytes_can_be_written(tmp_path):
    measured = Measurement([0.5], 1, lambda _: None)
    measured.steps[0].append({"labels": ["macro", "micro"], "gram": [[1.0, 0.0], [0.0, 0.0]]})
    name = b"caf\xe9\xe2\x80\xae.safetensors".decode(errors="surrogateescape")
    page = report.write(tmp_path, measured, {"weights": name, "dataset": "d"}).read_text(encoding="utf-8")
    assert r"caf\udce9\u202e.safetensors" in page


def test_what_is_not_defined_is_a_dash_with_its_reason_and_never_nan():
    """No exact spaces, a pair that never met, and one whose gradients are zero, as those behind a LoRA's B of zero."""
    nothing = dict.fromkeys(("effective", "latents", "half", "one_hot", "loss", "noise"), math.nan)
    silent = replace(level(0.3, 0.5), **nothing)
    silent.gradients = summary.matrix([(["a", "b"], [[1.0, 0.0], [0.0, 0.0]]), (["c"], [[1.0]])])
    words = summary.verdict([silent])
    assert words[0].startswith("a-b: no cosine, because the gradient of one is zero in every step")
    assert words[1:] == ["a-c: never in one step.", "b-c: never in one step."]
    page = report.page([silent], words, {"weights": "w", "dataset": "d"})
    assert re.search(r"\b(nan|inf)\b", page, re.IGNORECASE) is None
    assert "<td>–</td>" in page and "<td>– of –</td>" in page and "–: not defined, as s*" in page
    assert page.count("not defined: a gradient is zero") == 2
    assert page.count("not defined: these two were never in one draw") == 4


def test_every_pair_of_many_labels_has_a_colour_of_its_own_or_a_dash():
    kinds = charts.kinds(10)  # pairs of five labels
    assert len(set(kinds)) == 10 and all(kind.split()[0] in [f"s{n}" for n in range(6)] for kind in kinds)
    page = report.page([level(0.3, 0.5)], [], {"weights": "w", "dataset": "d"})
    assert all(f".s{number} {{ --c:" in page for number in range(6))


def test_s_star_is_compared_on_the_scale_of_the_path():
    """A U-Net at 0.97 of its timesteps has the signal-to-noise ratio of sigma = 0.92, below s* = 0.95."""
    unet = replace(level(0.97, 0.5), noise=0.92)
    between = replace(level(0.97, 0.5), noise=0.96)  # one-hot below 0.95, half at 0.97
    facts = {"weights": "w", "dataset": "d"}
    assert "α gives most to one slice" in report.page([between], [], facts)
    assert "below s*:" not in report.page([level(0.98, 0.5)], [], facts)
    assert "α is one-hot</span>" in report.page([unet], [], facts)


def test_a_measurement_goes_on_and_another_is_not_mixed_in(tmp_path):
    facts = {"weights": "w"}
    measured = store.load(tmp_path, facts, [0.3, 0.7], 2)
    for _ in range(2):
        measured.steps[measured.index].append({"labels": ["a"], "gram": [[1.0]]})
        measured.windows[measured.index] = [[("a", torch.ones(3))]]
        measured.done += 1
        measured.saved(measured)
    again = store.load(tmp_path, facts, [0.3, 0.7], 5)
    assert again.done == 2 and again.total == 10 and again.level() == 0.3
    assert again.steps[1] == [{"labels": ["a"], "gram": [[1.0]]}] and again.windows[0][0][0][0] == "a"
    with pytest.raises(SgaError, match="another measurement"):
        store.load(tmp_path, facts, [0.3], 5)


def test_json_has_null_where_nothing_is_known(tmp_path):
    measured = Measurement([0.5], 1, lambda _: None)
    measured.steps[0].append({"labels": ["macro", "micro"], "gram": [[1.0, 0.0], [0.0, 0.0]]})
    report.write(tmp_path, measured, {"weights": "w", "dataset": "d"})
    content = json.loads((tmp_path / "interference.json").read_text())
    assert content["levels"][0]["gradients"]["cosine"]["macro-micro"]["value"] is None
    assert not Interval(float("nan")).known


@pytest.mark.parametrize(
    ("toml", "words", "message"),
    [
        (None, [], "does not exist"),
        ("output_name = 'x'", [], "no network_module"),
        ("network_module = 'networks.lora'", ["--sd_scripts", "."], "sd-scripts"),
        ("network_module = 'networks.lora'", [], "of sga_path=shell"),
        ("network_module = 'networks.lora'\nsga_path = 'spherical-slerp'", [], "of sga_path=spherical-slerp"),
    ],
)
def test_errors_are_one_line(tmp_path, toml, words, message):
    weights, config = tmp_path / "w.safetensors", tmp_path / "c.toml"
    save_file({"weight": torch.zeros(1)}, weights, {"ss_sga_path": "shell" if "=shell" in message else "linear"})
    if toml is not None:
        config.write_text(toml)
    command = [sys.executable, "-m", "sga_kohya.interference", str(config), "--weights", str(weights), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
