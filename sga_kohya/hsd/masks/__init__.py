"""Masks: what of a photo counts in training, cut with it."""
