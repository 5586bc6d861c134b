"""Eq. 6 and Eq. 32-33 at known points."""

import pytest
import torch

from sga_kohya.equations.weights import flow_snr, min_snr_weight, sub_batch_weight

GAMMA = {"macro": 4.0, "meso": 5.0, "micro": 7.0}


@pytest.mark.parametrize(
    ("gamma", "snr", "expected"),
    [(7.0, 1.0, 1.0), (7.0, 7.0, 1.0), (7.0, 14.0, 0.5), (4.0, 8.0, 0.5), (5.0, 100.0, 0.05), (4.0, 0.0, 1.0)],
)
def test_min_snr_of_epsilon_prediction(gamma, snr, expected):
    assert min_snr_weight(torch.tensor([snr]), gamma).item() == pytest.approx(expected)


@pytest.mark.parametrize(("gamma", "snr", "expected"), [(5.0, 1.0, 0.5), (5.0, 9.0, 0.5), (7.0, 0.0, 0.0)])
def test_min_snr_of_v_prediction(gamma, snr, expected):
    assert min_snr_weight(torch.tensor([snr]), gamma, v_prediction=True).item() == pytest.approx(expected)


def test_each_sample_has_its_own_threshold():
    snr = torch.full((3,), 10.0)
    weights = min_snr_weight(snr, torch.tensor(list(GAMMA.values())))
    torch.testing.assert_close(weights, torch.tensor([0.4, 0.5, 0.7]))


def test_micro_keeps_full_weight_deeper_into_high_snr_than_macro():
    snr = torch.logspace(-3, 3, 601, dtype=torch.float64)
    full = {name: int((min_snr_weight(snr, gamma) == 1).sum()) for name, gamma in GAMMA.items()}
    assert full["macro"] < full["meso"] < full["micro"]


def test_zero_terminal_snr_is_never_nan():
    alphas_cumprod = torch.linspace(0.9999, 0.0, 1000, dtype=torch.float64)
    snr = alphas_cumprod / (1 - alphas_cumprod)
    for v_prediction in (False, True):
        weights = min_snr_weight(snr, 5.0, v_prediction)
        assert torch.isfinite(weights).all() and (weights >= 0).all() and (weights <= 1).all()


def test_an_infinite_gamma_is_no_threshold():
    snr = torch.tensor([0.0, 1.0, torch.inf])
    assert torch.equal(min_snr_weight(snr, torch.inf), torch.ones(3))
    assert torch.equal(min_snr_weight(snr, torch.tensor([4.0, torch.inf, 4.0])), torch.tensor([1.0, 1.0, 0.0]))


def test_snr_of_a_linear_path():
    torch.testing.assert_close(flow_snr(torch.tensor([0.0, 0.25, 0.5, 1.0])), torch.tensor([torch.inf, 9.0, 1.0, 0.0]))


def test_sub_batches_of_a_step_sum_to_the_mean_of_lambda():
    # K = 2: three macro slices in two buckets, three micro slices in one, lambda 2 and 0.5.
    parts = [("macro", 2), ("macro", 1), ("micro", 3)]
    lambdas = {"macro": 2.0, "micro": 0.5}
    total = sum(sub_batch_weight(lambdas[level], 2, 3, count, 3) for level, count in parts)
    assert total == pytest.approx((2.0 + 0.5) / 2)


@pytest.mark.parametrize(("reduction", "expected"), [("mean", 0.5), ("sum", 1.0), ("constant", 1 / 3)])
def test_reductions(reduction, expected):
    assert sub_batch_weight(1.0, 2, 3, 4, 4, reduction) == pytest.approx(expected)


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="'median'.*mean, sum, constant"):
        sub_batch_weight(1.0, 1, 3, 1, 1, "median")
