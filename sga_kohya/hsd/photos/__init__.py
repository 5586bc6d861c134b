"""Pixels and captions as they come in."""
