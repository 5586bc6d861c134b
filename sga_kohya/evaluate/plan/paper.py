"""What arXiv:2603.10785 published, to stand beside a plan's own numbers. It gives no intervals."""

# Table 1: {architecture: {metric: (baseline, SGA)}}
METRICS = {
    "flux": {"CLIP-I": (0.686, 0.701), "CLIP-T": (0.248, 0.253), "DINO-I": (0.425, 0.427)},
    "sdxl": {"CLIP-I": (0.715, 0.717), "CLIP-T": (0.296, 0.298), "DINO-I": (0.492, 0.539)},
}
# Table 2: {architecture: {rater: first-place rate in percent of full, without_tuples, without_modulation}}
ABLATION = {
    "flux": {"human": (54, 27, 19), "judge": (55, 25, 20)},
    "sdxl": {"human": (48, 16, 36), "judge": (61, 14, 25)},
}
# Section 4.4, of the judge on FLUX; Figs. 9 and 10 are pictures, and no other rate is printed in words.
FIRST_PLACES = {"flux": "40 % for SGA at 1.0 N1, below 20 % for both baselines"}
EFFICIENCY = "SGA at 1.0 N1 consistently outranks the baseline at 1.5 N1"
