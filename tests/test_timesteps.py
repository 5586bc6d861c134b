"""Eq. 29-31: known points, distributions, and the host's own formulas."""

import math

import pytest
import torch

from sga_kohya.equations.timesteps import renoise, resolution_mu, resolution_shift, sample_sigma, shift_logit


def test_shift_logit_is_a_shift_of_the_logit():
    sigma = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    for delta in (-2.0, -0.5, 0.0, 0.5, 3.0):
        torch.testing.assert_close(torch.logit(shift_logit(sigma, delta)), torch.logit(sigma) + delta)


@pytest.mark.parametrize(("sigma", "delta", "expected"), [(0.5, 0.5, 0.622459), (0.5, -0.5, 0.377541), (0.3, 0.0, 0.3)])
def test_known_points(sigma, delta, expected):
    assert shift_logit(torch.tensor(sigma, dtype=torch.float64), delta).item() == pytest.approx(expected, abs=1e-6)


def test_data_and_noise_stay_where_they_are():
    ends = torch.tensor([0.0, 1.0])
    for delta in (0.5, -2.0, torch.tensor(-0.5), torch.tensor([0.5, -0.5])):
        assert torch.equal(shift_logit(ends, delta), ends)


@pytest.mark.parametrize("shift", [1.0, 3.1582, 0.5])
def test_delta_after_the_host_s_shift_is_delta_inside_it(shift):
    z = torch.randn(1000, dtype=torch.float64)
    for delta in (0.5, -0.5):
        inside = torch.sigmoid(z + delta)
        inside = shift * inside / (1 + (shift - 1) * inside)
        t = torch.sigmoid(z)
        torch.testing.assert_close(shift_logit(shift * t / (1 + (shift - 1) * t), delta), inside)


def test_delta_after_flux_shift_is_eq_31_to_1e_6():
    z = torch.randn(1000, dtype=torch.float64)
    for height, width in ((64, 64), (128, 128), (160, 96)):
        mu = resolution_mu(height, width)
        t = torch.sigmoid(z)
        flux_shift = math.exp(mu) / (math.exp(mu) + (1 / t - 1))
        t_logit = torch.sigmoid(z + 0.5)
        eq_31 = t_logit / (t_logit + (1 - t_logit) * math.exp(-mu))
        torch.testing.assert_close(shift_logit(flux_shift, 0.5), eq_31, rtol=0, atol=1e-6)
        torch.testing.assert_close(resolution_shift(t_logit, mu), eq_31, rtol=0, atol=1e-6)


def test_resolution_mu_is_flux_s_line():
    assert resolution_mu(32, 32) == pytest.approx(0.5)  # 256 tokens
    assert resolution_mu(128, 128) == pytest.approx(1.15)  # 4096 tokens, a megapixel
    assert resolution_mu(160, 160) == pytest.approx(0.5 + 0.65 * (6400 - 256) / 3840)


# E[sigmoid(z + delta)] by quadrature over the standard normal, to 1e-9.
def mean_of_sigmoid(delta: float, scale: float = 1.0) -> float:
    z = torch.linspace(-12, 12, 200001, dtype=torch.float64)
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return torch.trapezoid(density * torch.sigmoid(scale * z + delta), z).item()


@pytest.mark.parametrize(("delta", "scale"), [(0.5, 1.0), (0.0, 1.0), (-0.5, 1.0), (0.5, 2.0)])
def test_the_sampler_has_the_distribution_of_eq_30(delta, scale):
    generator = torch.Generator().manual_seed(1)
    sigma = sample_sigma(torch.full((400_000,), delta, dtype=torch.float64), scale, generator=generator)
    assert sigma.min() > 0 and sigma.max() < 1
    assert sigma.mean().item() == pytest.approx(mean_of_sigmoid(delta, scale), abs=2e-3)
    assert torch.logit(sigma).mean().item() == pytest.approx(delta, abs=1e-2)
    assert torch.logit(sigma).std().item() == pytest.approx(scale, rel=1e-2)


def test_means_of_shifted_sigmoids():
    assert mean_of_sigmoid(0.5) == pytest.approx(0.60203, abs=1e-5)
    assert mean_of_sigmoid(0.5) + mean_of_sigmoid(-0.5) == pytest.approx(1.0)


def test_the_sampler_applies_mu_and_its_generator():
    delta = torch.zeros(8, dtype=torch.float64)
    plain = sample_sigma(delta, generator=torch.Generator().manual_seed(3))
    again = sample_sigma(delta, mu=1.15, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(torch.logit(again), torch.logit(plain) + 1.15)


@pytest.mark.parametrize("shape", [(3, 16, 8, 8), (3, 16, 1, 8, 8)])
def test_renoise_keeps_latents_and_noise(shape):
    latents, noise = torch.randn(2, *shape, dtype=torch.float64)
    broadcast = (3, *[1] * (len(shape) - 1))
    sigma = torch.tensor([0.02, 0.5, 0.98], dtype=torch.float64).view(broadcast)
    delta = torch.tensor([0.5, 0.0, -0.5], dtype=torch.float64).view(broadcast)
    moved = shift_logit(sigma, delta)
    actual = renoise((1 - sigma) * latents + sigma * noise, latents, sigma, delta)
    torch.testing.assert_close(actual, (1 - moved) * latents + moved * noise)


def test_renoise_is_regular_at_the_ends_and_accurate_in_float32():
    latents, noise = torch.randn(2, 2, 4, 8, 8)
    sigma = torch.tensor([0.0, 1.0]).view(-1, 1, 1, 1)
    delta = torch.full((2, 1, 1, 1), 0.5)
    actual = renoise(torch.stack([latents[0], noise[1]]), latents, sigma, delta)
    torch.testing.assert_close(actual, torch.stack([latents[0], noise[1]]), rtol=0, atol=1e-6)
    tiny = torch.full((2, 1, 1, 1), 1e-4)
    actual = renoise((1 - tiny) * latents + tiny * noise, latents, tiny, delta)
    expected = (1 - shift_logit(tiny, delta)) * latents + shift_logit(tiny, delta) * noise
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-6)
