"""Settings of a run: presets, files, command line."""
