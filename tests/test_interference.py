"""The identities of Appendix A, B and E in float64, on small latents, through the streaming code."""

import math

import pytest
import torch

from sga_kohya.equations import gram as grams
from sga_kohya.equations.interference import (
    Posterior,
    diffusion_path,
    flow_path,
    group_fields,
    half_sigma,
    interference_matrix,
    log_likelihood,
    marginal_field,
    one_hot_sigma,
    quadratic_form,
    relative_log_likelihood,
    residuals,
    squared_distances,
)

N, D, G, B = 23, 6, 3, 5
PATHS = {
    "flow": lambda level: flow_path(level),
    "epsilon": lambda level: diffusion_path(1 - level),
    "v": lambda level: diffusion_path(1 - level, v_prediction=True),
}


@pytest.fixture
def data():
    torch.set_default_dtype(torch.float64)
    latents, labels = torch.randn(N, D), torch.arange(N) % G
    sources, noise = torch.tensor([0, 4, 8, 12, 20]), torch.randn(B, D)
    yield latents, labels, sources, noise
    torch.set_default_dtype(torch.float32)


def at(path, latents, sources, noise):
    return path.mean[:, None] * latents[sources] + path.std[:, None] * noise


def densities(x, latents, path):
    """p_t(x|z_k) of Eq. 10 as it is written, (B, N)."""
    rows = []
    for point, mean, std in zip(x, path.mean, path.std, strict=True):
        normal = torch.distributions.Normal(mean * latents, std)
        rows.append(normal.log_prob(point).sum(1).exp())
    return torch.stack(rows)


def conditional(x, latents, path, kind, noise_level):
    """u(x|z_k) by its definition from the noise that leads from z_k to x, (B, N, d)."""
    eps = (x[:, None] - path.mean[:, None, None] * latents) / path.std[:, None, None]
    if kind == "epsilon":
        return eps
    if kind == "v":
        return path.mean[:, None, None] * eps - path.std[:, None, None] * latents
    return eps - latents


def posterior_of(x, latents, labels, path, chunk, repeats=None):
    posterior = Posterior(int(labels.max()) + 1)
    for part in torch.arange(len(latents)).split(chunk):
        posterior.add(
            log_likelihood(x, latents[part], path),
            latents[part],
            labels[part],
            None if repeats is None else repeats[part],
        )
    return posterior


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("chunk", [1, 4, N])
def test_fields_are_those_of_eq_12_to_14(data, kind, chunk):
    latents, labels, sources, noise = data
    level = torch.tensor([0.3, 0.5, 0.7, 0.9, 0.97])
    path = PATHS[kind](level)
    x = at(path, latents, sources, noise)
    p, u = densities(x, latents, path), conditional(x, latents, path, kind, level)
    posterior = posterior_of(x, latents, labels, path, chunk)
    fields = group_fields(x, posterior, path)
    for group in range(G):
        members = labels == group
        z = p[:, members].sum(1)  # Eq. 13
        expected = (p[:, members, None] * u[:, members]).sum(1) / z[:, None]
        torch.testing.assert_close(fields[:, group], expected)
        torch.testing.assert_close(posterior.alpha[:, group], z / p.sum(1))
    nadaraya_watson = (p[..., None] * u).sum(1) / p.sum(1, keepdim=True)  # Eq. 12
    torch.testing.assert_close(marginal_field(posterior.alpha, fields), nadaraya_watson)
    torch.testing.assert_close(posterior.alpha.sum(1), torch.ones(B))
    share = p / p.sum(1, keepdim=True)
    torch.testing.assert_close(posterior.effective, torch.exp(-(share * share.log()).sum(1)))


@pytest.mark.parametrize("groups", [2, 3, 7])
def test_the_loss_is_the_quadratic_form_for_any_partition(data, groups):
    """Eq. 2-3, 15-20, 34-38."""
    latents, _, sources, noise = data
    labels = torch.cat([torch.arange(groups), torch.randint(groups, (N - groups,))])
    path = flow_path(torch.full((B,), 0.8))
    x = at(path, latents, sources, noise)
    posterior = posterior_of(x, latents, labels, path, 5)
    alpha, fields, prediction = posterior.alpha, group_fields(x, posterior, path), torch.randn(B, D)
    delta = residuals(prediction, fields)
    omega = interference_matrix(delta)
    error = prediction - marginal_field(alpha, fields)
    torch.testing.assert_close(quadratic_form(alpha, omega), error.square().sum(1))  # Eq. 3, 15, 20, 36
    torch.testing.assert_close((alpha[..., None] * delta).sum(1), error)  # Eq. 38
    diagonal = (alpha.square() * omega.diagonal(dim1=1, dim2=2)).sum(1)
    cross = sum(2 * alpha[:, i] * alpha[:, j] * omega[:, i, j] for i, j in grams.pairs(groups))
    torch.testing.assert_close(diagonal + cross, error.square().sum(1))  # the two parts of Eq. 3
    assert bool((torch.linalg.eigvalsh(omega) > -1e-9).all())


def test_gradients_are_the_kernel_products_of_eq_39_to_45(data):
    latents, labels, sources, noise = data
    path = flow_path(torch.full((B,), 0.9))
    x = at(path, latents, sources, noise)[:1]
    path = flow_path(torch.tensor([0.9]))
    model = torch.nn.Sequential(torch.nn.Linear(D, 4), torch.nn.Tanh(), torch.nn.Linear(4, D))
    parameters = list(model.parameters())
    posterior = posterior_of(x, latents, labels, path, 7)
    fields, alpha = group_fields(x, posterior, path), posterior.alpha
    prediction = model(x)
    rows = [torch.autograd.grad(value, parameters, retain_graph=True) for value in prediction[0]]
    jacobian = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])  # Eq. 39
    delta = residuals(prediction.detach(), fields)[0]
    g = alpha[0][:, None] * (delta @ jacobian)  # Eq. 42
    loss = 0.5 * (prediction - marginal_field(alpha, fields)).square().sum()  # Eq. 37
    total = torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters, retain_graph=True)])
    torch.testing.assert_close(g.sum(0), total)  # Eq. 40-41
    for group in range(G):  # one vector-Jacobian product each, as the offline command makes it
        pulled = torch.autograd.grad(prediction, parameters, alpha[0, group] * delta[group][None], retain_graph=True)
        torch.testing.assert_close(torch.cat([part.flatten() for part in pulled]), g[group])
    kernel = jacobian @ jacobian.T
    products = alpha[0][:, None] * alpha[0] * (delta @ kernel @ delta.T)  # Eq. 44-45
    torch.testing.assert_close(g @ g.T, products)
    torch.testing.assert_close(products.sum(), total.square().sum())  # Eq. 43


@pytest.mark.parametrize("kind", PATHS)
def test_the_stable_form_is_the_same_posterior(data, kind):
    latents, labels, sources, noise = data
    path = PATHS[kind](torch.linspace(0.2, 0.98, B))
    x = at(path, latents, sources, noise)
    direct = log_likelihood(x, latents, path)
    stable = relative_log_likelihood(noise, latents[sources], latents, path)
    torch.testing.assert_close(stable, direct - direct.gather(1, sources[:, None]))
    assert stable.gather(1, sources[:, None]).abs().max() < 1e-12
    known = (latents[sources][:, None] - latents).square().sum(2)
    torch.testing.assert_close(relative_log_likelihood(noise, latents[sources], latents, path, known), stable)


def test_the_stable_form_holds_in_float32_at_the_size_of_real_latents():
    d, n = 65536, 12
    latents = torch.randn(n, d)
    latents[1] = latents[0] + 1e-3 * torch.randn(d)  # a near-copy
    noise, sources = torch.randn(1, d), torch.tensor([0])
    exact = latents.double()
    path = flow_path(torch.tensor([0.6]))
    x = path.mean.double()[:, None] * exact[sources] + path.std.double()[:, None] * noise.double()
    expected = log_likelihood(x, exact, flow_path(torch.tensor([0.6], dtype=torch.float64)))
    found = relative_log_likelihood(noise, latents[sources], latents, path)
    torch.testing.assert_close(found[0].double(), (expected - expected[:, :1])[0], rtol=1e-4, atol=1e-4)


def test_repeats_count_as_copies(data):
    latents, labels, sources, noise = data
    path = flow_path(torch.full((B,), 0.9))
    x = at(path, latents, sources, noise)
    repeats = 1 + torch.arange(N) % 4
    counted = posterior_of(x, latents, labels, path, 6, repeats)
    copied = posterior_of(x, latents.repeat_interleave(repeats, 0), labels.repeat_interleave(repeats), path, 6)
    torch.testing.assert_close(counted.alpha, copied.alpha)
    torch.testing.assert_close(counted.means, copied.means)


@pytest.mark.parametrize("count", [60, 300])
def test_alpha_collapses_where_it_is_said_to(count):
    """By brute force: N equidistant latents, and the share of the one that a point was made from."""
    latents = 50 * torch.eye(count, dtype=torch.float64)  # any two are 50 sqrt(2) apart
    distance = float(squared_distances(latents[:1], latents)[0, 1].sqrt())
    draws = 1500

    def share(sigma):
        path = flow_path(torch.full((draws,), sigma, dtype=torch.float64))
        source = latents[:1].expand(draws, -1)
        noise = torch.randn(draws, count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        x = path.mean[:, None] * source + path.std[:, None] * noise
        return log_likelihood(x, latents, path).softmax(1)[:, 0]

    half, one_hot = half_sigma(distance, count), one_hot_sigma(distance, count)
    assert 0.5 < share(half).mean() < 0.62  # a factor of two in the noise ratio would give 0.18 or 1
    assert share(one_hot).median() > 0.95 and share(one_hot).mean() > 0.9
    assert share(half).median() < 0.9  # between the two it is not one-hot
    assert share((half + 1) / 2).mean() < 0.1


def test_the_figures_that_page_and_readme_give():
    """300 latents of 65,536 dimensions."""
    distance = math.sqrt(2 * 65536)
    assert half_sigma(distance, 300) == pytest.approx(0.987, abs=5e-4)
    assert one_hot_sigma(distance, 300) == pytest.approx(0.9817, abs=5e-5)


def test_a_label_without_latents_is_no_field():
    posterior = Posterior(2)
    posterior.add(torch.zeros(1, 3), torch.randn(3, 4), torch.zeros(3, dtype=torch.long))
    assert posterior.alpha.tolist() == [[1.0, 0.0]]
    assert posterior.effective.item() == pytest.approx(3)
    with pytest.raises(ValueError, match="leave it out"):
        _ = posterior.means


def test_figures_of_a_gram_matrix():
    gradients = torch.tensor([[3.0, 0.0], [0.0, 4.0], [-3.0, -4.0]], dtype=torch.float64)
    gram = gradients @ gradients.T
    figures = grams.summary(gram, ["a", "b", "c"])
    assert figures["cosine/a-b"] == 0 and figures["cosine/a-c"] == pytest.approx(-0.6)
    assert figures["magnitude_similarity/a-b"] == pytest.approx(24 / 25)
    assert "condition_number" not in figures  # a + b + c = 0
    assert figures["diagonal_dominance"] == pytest.approx(0)  # each row's others add up to its diagonal
    two = grams.summary(gram[:2, :2], ["a", "b"])
    assert two["condition_number"] == pytest.approx(16 / 9) and two["diagonal_dominance"] == 1
    assert grams.summary(torch.zeros(2, 2), ["a", "b"]) == {}


def test_random_partitions_keep_counts_and_blocks():
    labels, blocks = torch.tensor([0, 1, 2, 0, 1]), ["x", "x", "x", "y", "y"]
    draws = grams.shuffled(labels, blocks, 200, torch.Generator().manual_seed(0)).tolist()
    assert len({tuple(draw) for draw in draws}) == 12
    assert all(sorted(draw[:3]) == [0, 1, 2] and sorted(draw[3:]) == [0, 1] for draw in draws)
    assert grams.can_differ(["a", "b", "c", "a", "b"], blocks)
    assert not grams.can_differ(["a", "b", "c"], ["x"] * 3)  # other names for the same sums
    assert not grams.can_differ(["a", "a", "b"], ["x", "y", "z"])


def test_the_control_tells_interference_from_chance():
    """Gradients that differ by label alone stand out of the random partitions; those that differ by chance do not."""
    generator = torch.Generator().manual_seed(1)
    labels, blocks = ["a", "b"] * 12, [step for step in range(12) for _ in range(2)]

    def share_below(signal):
        noise = torch.randn(24, 300, generator=generator, dtype=torch.float64)
        sign = torch.tensor([1.0 if label == "a" else -1.0 for label in labels], dtype=torch.float64)
        vectors = noise + signal * sign[:, None]
        found = grams.pool(vectors @ vectors.T, labels, blocks, 100, 0)
        sums = torch.stack([vectors[0::2].sum(0), vectors[1::2].sum(0)])
        assert found.real["cosine/a-b"] == pytest.approx(torch.cosine_similarity(*sums, dim=0).item())
        assert found.control["cosine/a-b"]["low"] < found.control["cosine/a-b"]["mean"]
        return found.control["cosine/a-b"]["at_or_below"]

    assert share_below(0.3) == pytest.approx(1 / 101)
    assert 0.02 < share_below(0.0) < 0.98
