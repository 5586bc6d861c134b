"""For test_sampling.py: noise levels of every family and mode, by the real host's functions and our seams, to a file.

python tests/host/probe_sampling.py CHECKOUT OUT.pt
"""

import sys
from argparse import Namespace
from pathlib import Path

import torch

sys.path[:] = [sys.argv[1], *sys.path, str(Path(__file__).parents[2])]

from sga_kohya.config import SgaConfig  # noqa: E402
from sga_kohya.hosts.sd_scripts.levels import Levels  # noqa: E402

COMMON = {"logit_mean": 0.3, "logit_std": 1.2, "mode_scale": 1.29, "ip_noise_gamma": None, "sigmoid_scale": 1.5}
SAMPLING = ("sigma", "uniform", "sigmoid", "shift", "flux_shift")
SCHEMES = ("uniform", "none", "logit_normal", "mode", "cosmap", "sigma_sqrt")
FAMILIES = {
    "FLUX": ({}, SAMPLING),
    "HunyuanImage": ({"byt5": None}, SAMPLING),
    "Lumina": ({"gemma2": None}, (*SAMPLING, "nextdit_shift")),
    "SD3": ({"training_shift": 3.0, "min_timestep": None, "max_timestep": None}, (None,)),
}
BUCKET, COUNT = (512, 768), 2000

levels = {}
for family, (own, modes) in FAMILIES.items():
    for mode in modes:
        for scheme in SCHEMES if mode in ("sigma", None) else ("none",):
            args = Namespace(**COMMON, **own, timestep_sampling=mode, weighting_scheme=scheme, discrete_flow_shift=3.1)
            levels[family, mode, scheme] = [
                Levels(args, config).noise_levels(label, BUCKET, COUNT)
                for config, label in (
                    (SgaConfig(modulation=False), "macro"),
                    (SgaConfig(), "macro"),
                    (SgaConfig(), "meso"),
                    (SgaConfig(timestep_shift={"micro": -2.0}), "micro"),
                )
            ]

weights = {}
for v_prediction in (False, True):
    for zero_terminal in (False, True):
        args = Namespace(min_snr_gamma=None, v_parameterization=v_prediction, zero_terminal_snr=zero_terminal)
        weights[v_prediction, zero_terminal] = {
            label: Levels(args, SgaConfig()).snr_weights(label) for label in ("macro", "meso", "micro", None)
        }

torch.save({"levels": levels, "weights": weights}, sys.argv[2])
