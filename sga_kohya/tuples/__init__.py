"""Tuple-wise optimization (Eq. 6 and Algorithm 2 of arXiv:2603.10785), for any trainer built on accelerate."""
