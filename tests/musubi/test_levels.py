"""Noise levels on musubi-tuner's own methods: sigma moves by Delta in every mode, and nothing else changes."""

import pytest
import torch

from .checks import LABELS, MODES

DELTA = torch.tensor([{"macro": 0.5, "micro": -0.5}.get(label or "", 0.0) for label in LABELS], dtype=torch.float64)


@pytest.fixture(scope="module")
def found(server_of, tuner, tmp_path_factory) -> dict[str, list[dict]]:
    folder = tmp_path_factory.mktemp("levels")
    names = ("levels", "hidream", "wan")
    server_of(tuner).do(folder, [{"check": name, "out": folder / f"{name}.pt"} for name in names])
    return {name: torch.load(folder / f"{name}.pt", "cpu", weights_only=False) for name in names}


def range_of(case: dict) -> tuple[float, float]:
    """That of sigma. In mode `sigma` the host counts from the noisy end."""
    low, high = case["args"].get("min_timestep", 0) / 1000, case["args"].get("max_timestep", 1000) / 1000
    return (1 - high, 1 - low) if case["mode"] == "sigma" else (low, high)


def moved(sigma: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Eq. 30 within a range, by way of the logit."""
    return low + (high - low) * torch.sigmoid(torch.logit((sigma - low) / (high - low)) + DELTA)


def columns(level: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return level.view(-1, *[1] * (like.ndim - 1))


@pytest.mark.parametrize("mode", MODES)
def test_sigma_moves_by_delta_and_the_hosts_offset_stays(found, mode):
    cases = [case for case in found["levels"] if case["mode"] == mode]
    assert len(cases) == 40
    for case in cases:
        offset = 0 if mode == "sigma" else 1
        rounding = 2**-8 if mode == "sigma" and case["dtype"] == torch.bfloat16 else 0.0  # of the host's own sigma
        before = (case["stock"]["steps"].double() - offset) / 1000
        expected = moved(before, *range_of(case)).clamp(0, 1)
        after = (case["on"]["steps"].double() - offset) / 1000
        torch.testing.assert_close(after, expected, rtol=0, atol=2e-6 + rounding)
        torch.testing.assert_close(case["sigma"].double(), expected, rtol=0, atol=2e-6 + rounding)
        if not rounding:
            assert (after[0] > before[0]) and (after[1] < before[1]), "macro to noise, micro to detail"
        level = columns(case["sigma"].double(), case["latents"])
        mixed = (1 - level) * case["latents"].double() + level * case["noise"].double()
        tolerance = 2e-2 if case["on"]["noisy"].dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(case["on"]["noisy"].double(), mixed, rtol=tolerance, atol=tolerance)
        assert case["on"]["noisy"].dtype == case["stock"]["noisy"].dtype
        assert case["on"]["steps"].dtype == case["stock"]["steps"].dtype


@pytest.mark.parametrize("mode", MODES)
def test_without_delta_a_batch_is_the_hosts_bit_for_bit_and_random_numbers_are_always(found, mode):
    for case in [case for case in found["levels"] if case["mode"] == mode]:
        stock, zero, on = case["stock"], case["zero"], case["on"]
        assert torch.equal(stock["noisy"], zero["noisy"]) and torch.equal(stock["steps"], zero["steps"])
        for ours in (zero, on):
            assert torch.equal(stock["state"][0], ours["state"][0]) and stock["state"][1] == ours["state"][1]


def test_hidream_mixes_its_own_noise_at_the_moved_levels(found):
    """Its noise grows with the level; in `uniform` it draws the levels by itself."""
    assert len(found["hidream"]) == 12
    for case in found["hidream"]:
        before, after = ((case[door]["steps"].double() - 1) / 1000 for door in ("stock", "on"))
        expected = moved(before, *range_of(case))
        torch.testing.assert_close(after, expected, rtol=0, atol=2e-6)
        torch.testing.assert_close(case["sigma"].double(), expected, rtol=0, atol=2e-6)
        level = columns(after, case["latents"])
        mixed = (1 - level) * case["latents"] + level * case["noise"] * (8.0 - (1 - level))
        torch.testing.assert_close(case["on"]["noisy"].double(), mixed, rtol=1e-4, atol=1e-4)
        assert torch.equal(case["stock"]["state"][0], case["on"]["state"][0])
        assert "noised" in case["fired"]


def test_of_two_models_all_levels_of_a_batch_are_noted_and_lie_on_one_side(found):
    """Wan draws them one by one then, until each fits the model that the first one asks for."""
    case = found["wan"]["one"]
    level = (case["steps"].double() - 1) / 1000
    torch.testing.assert_close(case["sigma"].double(), level, rtol=0, atol=1e-6)
    assert len({bool(one / 1000 >= found["wan"]["boundary"]) for one in case["steps"]}) == 1
    column = columns(level, found["wan"]["latents"])
    mixed = (1 - column) * found["wan"]["latents"] + column * found["wan"]["noise"]
    torch.testing.assert_close(case["noisy"].double(), mixed, rtol=1e-5, atol=1e-5)


def test_of_two_models_a_batch_of_mixed_granularities_is_refused(found):
    assert "this batch has several granularities" in found["wan"]["mixed"]
