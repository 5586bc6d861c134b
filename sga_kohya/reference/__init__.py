"""A small trainer of Algorithm 2 (arXiv:2603.10785) on diffusers, accelerate and LyCORIS; the loop is in trainer.py."""
