"""PCGrad and CAGrad against their papers: literal transcriptions of the algorithms, and cases solved by hand."""

import math

import pytest
import torch

from sga_kohya.equations.surgery import cagrad_weights, pcgrad_weights, surgery_weights


def pcgrad_as_printed(gradients, orders):
    """Algorithm 1 of arXiv:2001.06782 on vectors. orders: for each task, the order of all tasks."""
    results = []
    for i, order in enumerate(orders):
        g = gradients[i].clone()
        for j in order:
            if j != i and g @ gradients[j] < 0:
                g -= (g @ gradients[j]) / gradients[j].square().sum() * gradients[j]
        results.append(g)
    return torch.stack(results).sum(0)


def combined(weights, gradients):
    return weights @ gradients


@pytest.mark.parametrize("count", [2, 3, 5])
def test_pcgrad_is_algorithm_1(count):
    for seed in range(20):
        gradients = torch.randn(count, 4, dtype=torch.float64)
        weights = pcgrad_weights(gradients @ gradients.T, torch.Generator().manual_seed(seed))
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(count, generator=generator).tolist() for _ in range(count)]
        torch.testing.assert_close(combined(weights, gradients), pcgrad_as_printed(gradients, orders))


def test_pcgrad_by_hand():
    """(1, 0) and (-1, 1) conflict: each loses its part along the other, which leaves (0.5, 0.5) and (0, 1)."""
    gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    weights = pcgrad_weights(gradients @ gradients.T, torch.Generator())
    torch.testing.assert_close(combined(weights, gradients), torch.tensor([0.5, 1.5], dtype=torch.float64))


def test_without_conflict_pcgrad_is_the_sum():
    gradients = torch.rand(3, 6, dtype=torch.float64)
    assert pcgrad_weights(gradients @ gradients.T, torch.Generator()).tolist() == [1.0, 1.0, 1.0]


def test_two_gradients_after_pcgrad_do_not_hurt_either():
    for _ in range(20):
        gradients = torch.randn(2, 3, dtype=torch.float64)
        new = combined(pcgrad_weights(gradients @ gradients.T, torch.Generator()), gradients)
        assert (gradients @ new > -1e-12).all()


def cagrad_on_a_grid(tasks, c, steps=400):
    """min over w of g_w.g_0 + c |g_0| |g_w| for two or three tasks, by looking everywhere. Returns (value, w)."""
    grid = torch.cartesian_prod(*[torch.linspace(0, 1, steps + 1, dtype=torch.float64)] * (len(tasks) - 1))
    grid = grid.view(-1, len(tasks) - 1)
    grid = grid[grid.sum(1) <= 1 + 1e-12]
    w = torch.cat([grid, 1 - grid.sum(1, keepdim=True)], 1)
    g_0, g_w = tasks.mean(0), w @ tasks
    values = g_w @ g_0 + c * g_0.norm() * g_w.norm(dim=1)
    return values.min(), w[values.argmin()]


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("c", [0.2, 0.5, 0.9])
def test_cagrad_solves_its_dual(count, c):
    """Theorem 3.1's d = g_0 + sqrt(phi) / |g_w| g_w at the w that minimises F, phi = c^2 |g_0|^2."""
    for _ in range(5):
        tasks = torch.randn(count, 5, dtype=torch.float64) + 0.3
        g_0 = tasks.mean(0)
        shares = tasks / count  # the g_k of Eq. 6
        d = combined(cagrad_weights(shares @ shares.T, c), shares)
        extra = d - g_0
        torch.testing.assert_close(extra.norm(), c * g_0.norm())  # on the edge of the trust region
        best, w = cagrad_on_a_grid(tasks, c, 2000 if count == 2 else 150)
        # strong duality: the worst task improves by the dual's minimum
        assert float((tasks @ d).min()) == pytest.approx(float(best), abs=2e-3)
        expected = g_0 + c * g_0.norm() / (w @ tasks).norm() * (w @ tasks)
        torch.testing.assert_close(d, expected, atol=0.05, rtol=0.05)


def test_cagrad_by_hand():
    """Two orthogonal gradients of one length are a symmetric case: w = (1/2, 1/2), so d = (1 + c) g_0."""
    tasks = torch.eye(2, dtype=torch.float64)
    shares = tasks / 2
    weights = cagrad_weights(shares @ shares.T, 0.5)
    torch.testing.assert_close(combined(weights, shares), torch.full((2,), 0.75, dtype=torch.float64))
    torch.testing.assert_close(cagrad_weights(shares @ shares.T, 0.0), torch.ones(2, dtype=torch.float64))


def test_opposed_gradients_end_in_nothing_and_not_in_nan():
    gradients = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    gram = gradients @ gradients.T
    for method in ("pcgrad", "cagrad"):
        new = combined(surgery_weights(method, gram, torch.Generator()), gradients)
        torch.testing.assert_close(new, torch.zeros(2, dtype=torch.float64), atol=1e-6, rtol=0)


def test_one_gradient_and_an_overflow_are_left_alone():
    assert surgery_weights("cagrad", torch.ones(1, 1), torch.Generator()).tolist() == [1.0]
    bad = torch.tensor([[1.0, math.inf], [math.inf, 1.0]])
    assert surgery_weights("pcgrad", bad, torch.Generator()).tolist() == [1.0, 1.0]
