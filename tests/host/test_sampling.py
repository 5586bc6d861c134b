"""The real host's sampling in every family and mode: our seams move its logit by exactly Delta, whatever it draws."""

import math
from pathlib import Path

import pytest
import torch

from ..forked import python
from .conftest import start

PROBE = Path(__file__).with_name("probe_sampling.py")


@pytest.fixture(scope="module")
def probe(checkout, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("sampling")
    start([*python(), str(PROBE), str(checkout), str(folder / "out.pt")], folder, 120)
    return torch.load(folder / "out.pt")


def test_delta_is_added_to_the_logit_in_every_mode(probe):
    assert len(probe["levels"]) == 3 * (6 + 4) + 1 + 6
    for mode, drawn in probe["levels"].items():
        stock, macro, meso, micro = (sigma.double() for sigma in drawn)
        assert torch.equal(meso, stock), mode
        inside = (stock > 1e-3) & (stock < 1 - 1e-3)  # float32 has no exact logit close to the ends
        assert inside.sum() > 1900, mode
        for moved, delta in ((macro, 0.5), (micro, -2.0)):
            difference = (torch.logit(moved) - torch.logit(stock))[inside]
            torch.testing.assert_close(difference, torch.full_like(difference, delta), rtol=0, atol=5e-4, msg=str(mode))
        assert ((macro >= 0) & (macro <= 1)).all() and (macro >= stock).all() and (micro <= stock).all(), mode


def test_the_host_s_own_distribution_is_what_eq_30_and_31_say(probe):
    """Median of the logit: mu_res for flux_shift, log(shift) for shift, plus Delta; its spread is s."""
    mu = 0.5 + 0.65 * ((64 // 2) * (96 // 2) - 256) / (4096 - 256)
    for family in ("FLUX", "Lumina"):
        for mode, middle in (("sigmoid", 0.0), ("shift", math.log(3.1)), ("flux_shift", mu)):
            stock, macro, *_ = probe["levels"][family, mode, "none"]
            assert torch.logit(stock.double()).median().item() == pytest.approx(middle, abs=0.1)
            assert torch.logit(macro.double()).median().item() == pytest.approx(middle + 0.5, abs=0.1)
            assert torch.logit(macro.double()).std().item() == pytest.approx(1.5, rel=0.05)


def test_hunyuan_s_latents_are_a_quarter_as_wide(probe):
    """Its autoencoder shrinks 32-fold, so flux_shift moves it less than FLUX at the same resolution."""
    small, large = (
        torch.logit(probe["levels"][family, "flux_shift", "none"][0].double()).median()
        for family in ("HunyuanImage", "FLUX")
    )
    tokens = (16 // 2) * (24 // 2) - (64 // 2) * (96 // 2)
    assert (small - large).item() == pytest.approx(0.65 * tokens / 3840, abs=1e-4)


def test_snr_weights_at_known_points(probe):
    beta = torch.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000, dtype=torch.float64).square()
    alpha_bar = (1 - beta).cumprod(0)
    snr = alpha_bar / (1 - alpha_bar)
    for label, gamma in {"macro": 4.0, "meso": 5.0, "micro": 7.0}.items():
        plain, v_prediction = (probe["weights"][v, False][label].double() for v in (False, True))
        torch.testing.assert_close(plain, (gamma / snr).clamp(max=1), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(v_prediction, snr.clamp(max=gamma) / (snr + 1), rtol=1e-4, atol=1e-6)
        assert probe["weights"][False, True][label][999] == 1 and probe["weights"][True, True][label][999] == 0
    assert all((probe["weights"][key][None] == 1).all() for key in probe["weights"])
