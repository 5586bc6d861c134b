"""Rankings by a model and by people."""
