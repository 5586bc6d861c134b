"""equations/paths.py against the figures of shared/spherical.md and what a sphere demands."""

import math

import pytest
import torch

from sga_kohya.equations.paths import (
    PATHS,
    angle,
    exponential_map,
    project,
    radial_share,
    resample_antipodal,
    tangent,
    unit,
)
from sga_kohya.words import PATH_NAMES

SLERP, CHORD = PATHS["spherical-slerp"], PATHS["spherical-linear"]
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14}


def pair(d, n=64, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))


def at_angle(omega, d=16, dtype=torch.float64):
    """Two unit tokens (1, d) at this angle, in general position."""
    basis = torch.linalg.qr(torch.randn(d, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0].T
    a, e = basis[:1], basis[1:]
    return a.to(dtype), (math.cos(omega) * a + math.sin(omega) * e).to(dtype)


def test_modes_are_the_options():
    assert tuple(PATHS) == PATH_NAMES


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("d", [2, 4, 16, 64])
def test_slerp_stays_on_the_sphere_and_its_velocity_is_tangent(d, dtype):
    z, eps = pair(d, dtype=dtype)
    for sigma in (0.0, 0.1, 0.5, 0.999, 1.0):
        x, u = SLERP.at(z, eps, torch.tensor(sigma))
        assert x.dtype == u.dtype == dtype
        torch.testing.assert_close(x.norm(dim=1), torch.full((64,), d**0.5, dtype=dtype), rtol=TOLERANCE[dtype], atol=0)
        assert (x * u).sum(1).abs().max() < 20 * d * TOLERANCE[dtype]
        torch.testing.assert_close(u.norm(dim=1), d**0.5 * angle(z, eps)[:, 0], rtol=10 * TOLERANCE[dtype], atol=0)


@pytest.mark.parametrize("mode", PATHS)
def test_ends_and_derivative(mode):
    path = PATHS[mode]
    z, eps = pair(16)
    torch.testing.assert_close(path.at(z, eps, torch.tensor(0.0)).x, path.prior(z), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(path.at(z, eps, torch.tensor(1.0)).x, path.prior(eps), rtol=1e-12, atol=1e-12)
    sigma = torch.rand(64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    _, along = torch.autograd.functional.jvp(
        lambda s: path.at(z, eps, s).x, sigma, torch.ones_like(sigma), create_graph=False
    )
    torch.testing.assert_close(path.at(z, eps, sigma).velocity, along, rtol=1e-10, atol=1e-10)


def test_linear_is_what_sd_scripts_does():
    z, eps = pair(16, dtype=torch.float32)
    x, u = PATHS["linear"].at(z, eps, torch.full((64,), 0.3))
    assert torch.equal(x, 0.7 * z + 0.3 * eps) or torch.allclose(x, 0.7 * z + 0.3 * eps, rtol=0, atol=1e-7)
    assert torch.equal(u, eps - z)
    assert torch.equal(PATHS["linear"].step(x, -0.1 * u), x - 0.1 * u)
    assert torch.equal(PATHS["linear"].end(x), x)


def test_shell_interpolates_the_radius():
    z, eps = pair(16)
    x, u = PATHS["shell"].at(z, eps, torch.tensor(0.25))
    torch.testing.assert_close(x.norm(dim=1), 0.75 * z.norm(dim=1) + 0.25 * eps.norm(dim=1))
    radial = (u * unit(x)).sum(1)
    torch.testing.assert_close(radial, eps.norm(dim=1) - z.norm(dim=1))


@pytest.mark.parametrize("shape", [(2, 16, 5, 3), (2, 16, 1, 5, 3)])
def test_a_token_is_the_channels_of_one_latent_pixel(shape):
    z, eps = (torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    sigma = torch.tensor([0.2, 0.9])
    x, u = SLERP.at(z, eps, sigma)
    token = (1, slice(None), *[0] * (len(shape) - 4), 4, 2)
    alone = SLERP.at(z[token][None], eps[token][None], sigma[1:])
    torch.testing.assert_close((x[token], u[token]), (alone.x[0], alone.velocity[0]))
    per_pixel = sigma.view(-1, *[1] * (len(shape) - 1))
    torch.testing.assert_close(SLERP.at(z, eps, per_pixel).x, x)


def expected_square(d):
    """E[omega^2] by quadrature: the angle between independent directions has a density of sin(omega)^(d - 2)."""
    omega = (torch.arange(200_000, dtype=torch.float64) + 0.5) * math.pi / 200_000
    density = torch.sin(omega) ** (d - 2)
    return float((density * omega.square()).sum() / density.sum())


@pytest.mark.parametrize(("d", "expected"), [(16, 2.534), (32, 2.500), (64, 2.483)])
def test_loss_of_a_model_that_predicts_nothing(d, expected):
    """Each token's squared velocity is d omega^2, its mean over the channels omega^2."""
    assert round(expected_square(d), 3) == expected
    z, eps = pair(d, n=400_000, seed=d)
    velocity = SLERP.at(z, eps, torch.tensor(0.4)).velocity
    torch.testing.assert_close(velocity.square().mean(1), angle(z, eps)[:, 0].square(), rtol=1e-9, atol=0)
    spread = float(velocity.square().mean(1).std()) / math.sqrt(len(z))
    assert velocity.square().mean().item() == pytest.approx(expected_square(d), abs=3 * spread)
    assert spread < 0.0015


@pytest.mark.parametrize("omega", [0.3, math.pi / 2, 2.5])
def test_radial_share_and_norm_of_the_chord(omega):
    a, b = at_angle(omega)
    c, times = math.cos(omega), torch.linspace(0, 1, 11, dtype=torch.float64)
    for t in times:
        x, u = CHORD.at(a, b, t)
        share = (1 - c) * (2 * t - 1) ** 2 / (2 * (1 - 2 * t * (1 - t) * (1 - c)))
        assert radial_share(u, x).item() == pytest.approx(share.item(), abs=1e-12)
    ends = [radial_share(*reversed(CHORD.at(a, b, t))).item() for t in (times[0], times[-1])]
    assert ends == pytest.approx([math.sin(omega / 2) ** 2] * 2)
    assert CHORD.at(a, b, times[5]).x.norm().item() == pytest.approx(4 * math.cos(omega / 2))
    assert radial_share(*reversed(SLERP.at(a, b, times[2]))).item() < 1e-20


def test_time_average_of_the_chords_radial_share():
    times = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    a, b = (v.expand(20_000, -1) for v in at_angle(math.pi / 2))
    x, u = CHORD.at(a, b, times)
    assert radial_share(u, x).mean().item() == pytest.approx(1 - math.pi / 4, abs=1e-8)


@pytest.mark.parametrize(("steps", "deficit"), [(1, 0.567), (10, 0.0127), (50, 5.2e-4)])
def test_what_euler_with_renormalising_falls_short_of_and_the_exponential_map_does_not(steps, deficit):
    a, b = at_angle(math.pi / 2)
    euler = exact = project(b)
    for number in range(steps, 0, -1):
        # the path's velocity at a point of the great circle: tangent, of constant length
        turn = SLERP.at(a, b, torch.tensor(number / steps)).velocity
        straight = tangent(turn, exact)
        direction = unit(tangent(project(a), euler)) * -turn.norm()
        before = euler
        euler = project(euler - direction / steps)
        assert angle(before, euler).item() == pytest.approx(math.atan(math.pi / 2 / steps))
        exact = SLERP.step(exact, -straight / steps)
    assert angle(project(a), euler).item() == pytest.approx(deficit, rel=0.01)
    torch.testing.assert_close(exact, project(a), rtol=0, atol=1e-13)


@pytest.mark.parametrize("d", [16, 32, 64])
def test_gaussian_norms_vary_little(d):
    norms = torch.randn(200_000, d, generator=torch.Generator().manual_seed(0)).norm(dim=1)
    assert (norms.std() / norms.mean()).item() == pytest.approx(1 / math.sqrt(2 * d), rel=0.02)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_sampler_is_exact_on_the_path_in_steps_of_any_size(dtype):
    z, eps = pair(16, dtype=dtype)
    x, levels = SLERP.prior(eps), [1.0, 0.83, 0.4, 0.37, 0.0]
    for now, after in zip(levels, levels[1:], strict=False):
        u = SLERP.at(z, eps, torch.tensor(now)).velocity
        x = SLERP.step(x, (after - now) * (u + 0.7 * x))  # a radial part must not count
    torch.testing.assert_close(x, project(z), rtol=0, atol=20 * TOLERANCE[dtype])
    assert torch.equal(exponential_map(x, torch.zeros_like(x)), x)


def test_guidance_may_be_projected_before_or_after():
    x, _ = SLERP.at(*pair(16), torch.tensor(0.5))
    (v, w), scale = pair(16, seed=5), 3.5
    torch.testing.assert_close(tangent(w + scale * (v - w), x), tangent(w, x) + scale * (tangent(v, x) - tangent(w, x)))


@pytest.mark.parametrize("omega", [0.0, 1e-7, 1e-5, 1e-4, 1e-3, 0.1, 3.0, math.pi - 1e-2, math.pi - 1e-3])
def test_float32_near_the_ends_of_the_angle(omega):
    """arccos gives NaN below 1e-4 and errors of 1.7 at pi - 1e-3; the frame form is within 4e-4."""
    for sigma in (0.0, 0.3, 1.0):
        x, u = SLERP.at(*at_angle(omega, dtype=torch.float32), torch.tensor(sigma))
        # the truth: exactly the float32 tokens, in float64
        wide = SLERP.at(*(v.double() for v in at_angle(omega, dtype=torch.float32)), torch.tensor(sigma))
        assert torch.isfinite(x).all() and torch.isfinite(u).all()
        assert (x - wide.x).abs().max() < 4e-4
        assert (u - wide.velocity).abs().max() < 2e-3 if omega > 3.1 else (u - wide.velocity).abs().max() < 1e-5
        assert x.norm().item() == pytest.approx(4, abs=1e-5)
        assert abs((x * u).sum().item()) < 1e-4


def test_arccos_would_have_failed():
    """The reason for the frame form, kept as a test so that nobody simplifies it."""
    a, b = (v.repeat(1000, 1) for v in at_angle(1e-4, dtype=torch.float32))
    b = unit(b + 1e-5 * torch.randn(b.shape, generator=torch.Generator().manual_seed(0)))
    omega = torch.arccos((a * b).sum(1, keepdim=True))
    naive = torch.sin(0.5 * omega) / torch.sin(omega) * (a + b)
    assert torch.isnan(naive).any(dim=1).float().mean() > 0.3
    assert torch.isfinite(SLERP.at(a, b, torch.tensor(0.5)).x).all()


def test_antipodal_noise_is_drawn_anew_and_only_that():
    z = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    noise[3], noise[5] = -2 * z[3], -z[5] * (1 + 1e-6)
    drawn = resample_antipodal(noise, z, torch.Generator().manual_seed(2))
    kept = [0, 1, 2, 4, 6, 7]
    assert torch.equal(drawn[kept], noise[kept])
    assert (angle(drawn, z)[[3, 5]] < math.pi - 1e-3).all()
    untouched = torch.Generator().manual_seed(7)
    assert resample_antipodal(drawn, z, untouched) is drawn
    assert torch.equal(untouched.get_state(), torch.Generator().manual_seed(7).get_state())


@pytest.mark.parametrize("mode", PATHS)
def test_bf16_is_widened_before_any_arithmetic(mode):
    z, eps = pair(16, dtype=torch.bfloat16)
    sigma = torch.tensor([0.3]).expand(64)
    narrow, wide = PATHS[mode].at(z, eps, sigma), PATHS[mode].at(z.float(), eps.float(), sigma)
    assert narrow.x.dtype == narrow.velocity.dtype == torch.float32
    assert torch.equal(narrow.x, wide.x) and torch.equal(narrow.velocity, wide.velocity)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = PATHS[mode].at(z, eps, sigma)
    assert torch.equal(inside.x, wide.x)


def test_gradient_of_the_loss_is_the_projected_residual():
    x, u = SLERP.at(*pair(16), torch.tensor(0.4))
    prediction = pair(16, seed=9)[0].requires_grad_()
    loss = (SLERP.velocity(prediction, x) - u).square().mean()
    loss.backward()
    residual = 2 * (tangent(prediction.detach(), x) - u) / u.numel()
    torch.testing.assert_close(prediction.grad, residual)
    assert (prediction.grad * x).sum(1).abs().max() < 1e-14  # nothing is asked of the radial part


@pytest.mark.parametrize("mode", PATHS)
@pytest.mark.parametrize("omega", [0.0, 1e-6, math.pi / 2, math.pi - 1e-3])
def test_gradients_are_finite_at_the_edges(mode, omega):
    a, b = (v.requires_grad_() for v in at_angle(omega, dtype=torch.float32))
    x, u = PATHS[mode].at(a, b, torch.tensor(0.5))
    (x.sum() + u.sum()).backward()
    assert torch.isfinite(a.grad).all() and torch.isfinite(b.grad).all()


def test_zero_tokens_and_single_channels():
    zero = torch.zeros(1, 4)
    assert project(zero).norm().item() == pytest.approx(2)
    assert torch.isfinite(SLERP.at(zero, torch.ones(1, 4), torch.tensor(0.5)).x).all()
    with pytest.raises(ValueError, match="tokens of 1 channel"):
        project(torch.ones(2, 1, 8, 8))
