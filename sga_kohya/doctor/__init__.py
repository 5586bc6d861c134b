"""Check a set-up without training, and say all of it at once: python -m sga_kohya.doctor CONFIG [OPTIONS]"""
