"""kohya-ss sd-scripts: the places where it calls us, one a file; nothing of it is copied."""
