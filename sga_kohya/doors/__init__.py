"""Launchers: one small module for each training script, reached as `python -m sga_kohya.NAME`."""
