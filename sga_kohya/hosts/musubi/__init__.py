"""kohya-ss musubi-tuner: the places where it calls us, one a file; nothing of it is copied."""
