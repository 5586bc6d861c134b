"""Words that two parts must spell alike: labels, modes, keys, names of files. Those of one part alone stand there."""

DEFAULT_LABELS = ("macro", "meso", "micro")
"""Granularities, coarse to fine."""
DEFAULT_SHIFTS = {"macro": 0.5, "meso": 0.0, "micro": -0.5}
"""Delta of Eq. 29 for them."""
UNLABELLED = "unlabelled"
"""How a sample without a granularity is called where None cannot stand."""
ATTRIBUTE = "granularity"
"""The key of `custom_attributes`, and of a row of the manifest."""
MANIFEST_NAME = "sga_manifest.jsonl"
RAW_TOML, RAW_MUSUBI_TOML = "dataset_raw.toml", "dataset_musubi_raw.toml"
"""What H-SD writes beside the descriptions of its slices: the photos that they come from, for each of the hosts."""
TRAIN_HOURS = "ss_sga_train_hours"
"""Of a saved model's metadata: how long it was trained."""

TIMESTEP_SHIFT = "timestep_shift"
"""What modulates flow matching, Eq. 29-31; the option --sga_timestep_shift."""
SNR_GAMMA = "snr_gamma"
"""What modulates U-Nets, Eq. 32-33; the option --sga_snr_gamma."""
UPSTREAM = "upstream"
"""The form of timestep_shift that is inside the host's sigmoid; see --sga_timestep_shift_form."""
LINEAR = "linear"
"""The path that stock trainers have."""
PATH_NAMES = (LINEAR, "shell", "spherical-linear", "spherical-slerp")
REDUCTIONS = ("mean", "sum", "constant")
"""Eq. 6, Algorithm 2 as printed, and over all levels however many are present."""
PCGRAD, CAGRAD = "pcgrad", "cagrad"
"""Methods of gradient surgery."""
