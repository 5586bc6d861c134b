"""Tools around spherical flow matching (arXiv:2605.15193): probe a VAE, fit a decoder to the sphere, compare paths."""
